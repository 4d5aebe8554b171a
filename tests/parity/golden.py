"""Reference arrays, computed by the authors' released code on a tiny random CLIP, and their names in this project.

``tests/golden/*.npz`` hold only data. ``in.*`` are inputs, ``out.*`` are expected outputs, and ``grad.*`` are expected
gradients of the loss. All other arrays are weights. ``backbone.npz`` holds the CLIP weights of all cases.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.clip import Backbone
from components.backbones.load import create
from components.methods.base import Method

FOLDER = Path(__file__).parents[1] / "golden"
MAX_FRAMES = 5
WORDS = 10
CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 3, "width": 128, "head_width": 64},
    "text_cfg": {"context_length": 12, "vocab_size": 100, "layers": 3, "width": 128, "heads": 2},
}
# The float32 noise of the references is 7e-6 on features and logits, and 3e-7 on gradients.
ATOL = 2e-5
GRAD_ATOL, GRAD_RTOL = 1e-6, 1e-4


def arrays(case: str) -> dict[str, Tensor]:
    """Loads all arrays of a case."""
    with np.load(FOLDER / f"{case}.npz") as data:
        return {name: torch.from_numpy(data[name]) for name in data.files}


def golden_backbone() -> Backbone:
    """Builds the tiny CLIP with the reference weights."""
    clip = create("golden", CONFIG, quick_gelu=True)
    clip.load_state_dict({name.removeprefix("clip."): value for name, value in arrays("backbone").items()})
    return Backbone(clip, "golden", open_clip.SimpleTokenizer())


def clip_name(theirs: str) -> str:
    """Translates a reference name, such as ``clip.visual.proj``, into the backbone's name."""
    name = theirs.removeprefix("clip.")
    if name == "logit_scale":
        return name
    if name.startswith("visual."):
        return name.replace("visual.", "vision.").replace("transformer.resblocks", "layers.blocks")
    return "text." + name.replace("transformer.resblocks", "layers.blocks")


def train_clip(backbone: Backbone, case: dict[str, Tensor]) -> dict[str, nn.Parameter]:
    """Makes the parameters with a reference gradient trainable. Maps the reference's name to each parameter."""
    ours = dict(backbone.named_parameters())
    found = {name: ours[clip_name(name.removeprefix("grad."))] for name in case if name.startswith("grad.clip.")}
    for parameter in found.values():
        parameter.requires_grad_(True)
    return found


def symmetric_loss(logits: Tensor) -> Tensor:
    """The mean of the cross-entropies over rows and columns. The diagonal holds the matches."""
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def close(name: str, ours: Tensor, theirs: Tensor, atol: float = ATOL) -> None:
    """Asserts equality within ``atol``. The message names the array that differs."""
    difference = float((ours.detach() - theirs).abs().max())
    assert ours.shape == theirs.shape, name
    assert difference <= atol, f"{name} differs by {difference:.2e}"


def close_gradient(name: str, ours: Tensor | None, theirs: Tensor) -> None:
    """Asserts equality of gradients, relative to the largest entry of the array."""
    assert ours is not None, f"{name}: no gradient"
    close(name, ours, theirs, GRAD_ATOL + GRAD_RTOL * float(theirs.abs().max()))


def take_weights(method: Method, case: dict[str, Tensor]) -> dict[str, nn.Parameter]:
    """Gives a method the trained weights of a case that names them as the method does, and returns them."""
    trained = method.trainable()
    assert {key for key in case if not key.startswith(("out.", "grad."))} == set(trained)
    with torch.no_grad():
        for key, parameter in trained.items():
            parameter.copy_(case[key])
    return trained


def check_weighted_sum(found: dict[str, Tensor], case: dict[str, Tensor], atol: float) -> None:
    """Compares embeddings by name, and sends back the sum of all of them times ``linspace(-1, 1, E)``."""
    for name, embeddings in found.items():
        close(name, embeddings, case[f"out.{name}"], atol)
    torch.stack([(rows * torch.linspace(-1, 1, rows.shape[-1])).sum() for rows in found.values()]).sum().backward()


def check_outputs(method: Method, case: dict[str, Tensor]) -> Tensor:
    """Compares all outputs of a case that pools by masked mean. Returns the loss."""
    frames, mask = case["in.video"], case["in.video_mask"].bool()
    features = method.frame_features(frames, mask)
    # Features of padding frames have no meaning and never reach a video's embedding.
    close("frame features", features[mask], case["out.frame_features"][mask])
    text = method.backbone.text(case["in.text"], method.text_hooks())
    close("text features", text, case["out.text_features"])
    video, words = method(frames, mask, case["in.text"])
    close("video", video, case["out.video_features"])
    close("text", words, case["out.text_features_normalised"])
    logits = method.logit_scale * words @ video.T
    close("logits", logits, case["out.logits"])
    loss = symmetric_loss(logits)
    close("loss", loss, case["out.loss"])
    return loss
