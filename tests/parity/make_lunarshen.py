"""Makes the reference arrays of TempMe and DiscoVLA by running their authors' released models on a tiny random CLIP.

    git clone https://github.com/LunarShen/TempMe /tmp/release/TempMe
    git clone https://github.com/LunarShen/DsicoVLA /tmp/release/DiscoVLA
    pip install einops
    python tests/parity/make_lunarshen.py tempme /tmp/release/TempMe
    python tests/parity/make_lunarshen.py discovla /tmp/release/DiscoVLA

The CLIP is that of ``tests/golden/backbone.npz``. Everything that trains gets random values. The file keeps them with
inputs, features and gradients of the symmetric loss, and none of the releases' code. In the release of TempMe, the
number of tokens per frame is a constant of ViT-B, which is set to that of the tiny CLIP.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from golden import CONFIG, FOLDER, arrays, symmetric_loss

SETTINGS: dict[str, dict[str, Any]] = {
    "tempme": {
        "lora_dim": 2, "merge_layer": "1-2", "merge_frame_num": "2-3", "merge_token_proportion": "30-10",
        "frame_pos": 1, "tome_r": 2, "tome_tracesource": False, "tome_propattn": True,
    },
    "discovla": {"lora_adapter_dim": 2, "alpha": 0.3, "beta": 1.0, "H_V": 2, "H_L": 1},
}  # fmt: skip
FRAMES = 6


def released(name: str) -> Any:
    """The release's model on the tiny CLIP."""
    modeling = import_module("tvr.models.modeling")
    with tempfile.TemporaryDirectory() as folder:
        weights = {key.removeprefix("clip."): value for key, value in arrays("backbone").items()}
        torch.save(weights, Path(folder) / "ViT-B-32.pt")
        config = SimpleNamespace(
            base_encoder="ViT-B/32", pretrained_path=folder, max_frames=FRAMES, world_size=1, **SETTINGS[name]
        )
        model: Any = modeling.VTRModel(config)
    if name == "tempme":
        vision = CONFIG["vision_cfg"]
        model.patch_list[0] = 1 + (vision["image_size"] // vision["patch_size"]) ** 2
    return model.eval()


def main(name: str, folder: str) -> None:
    """Writes ``tests/golden/<name>.npz``."""
    sys.path.insert(0, folder)
    torch.manual_seed(0)
    model = released(name)
    trained = {key: p for key, p in model.named_parameters() if "TVPt" in key}
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key in trained)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    # Half precision keeps the file small, and its values are float32 values too.
    video = torch.randn(3, FRAMES, 3, 32, 32).half()
    text = torch.randint(1, 98, (3, 10))
    for row, end in enumerate((9, 6, 4)):
        text[row, end], text[row, end + 1 :] = 99, 0
    mask = torch.ones(3, FRAMES, dtype=torch.int64)
    pixels = video.float().flatten(0, 1)
    pooled = model.get_video_feat(pixels, mask)
    words = model.get_text_feat(text, (text > 0).long())
    unit_video, unit_text = (out / out.norm(dim=-1, keepdim=True) for out in (pooled, words))
    loss = symmetric_loss(model.clip.logit_scale.exp() * unit_text @ unit_video.T)
    loss.backward()
    found = {"in.video": video, "in.text": text, "out.video": unit_video, "out.text": unit_text, "out.loss": loss}
    found |= trained
    # A single caption passes no fusion in the text tower of DiscoVLA.
    found |= {f"grad.{key}": p.grad for key, p in trained.items() if p.grad is not None}
    kept = {key: value.detach().numpy() for key, value in found.items()}
    np.savez_compressed(FOLDER / f"{name}.npz", **kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
