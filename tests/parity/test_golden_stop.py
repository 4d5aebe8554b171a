"""STOP compared with the authors' release, one video at a time, on the CLIP of ``backbone.npz``.

The arrays come from https://github.com/zhoujiahuan1991/CVPR2025-STOP, ``modules/clip.py``, class ``CLIP`` in evaluation
mode, with ``temporal_prompt group2-2, lora True, shared_latent_space linear`` and otherwise as in test_golden_dgl.py.
The file holds two versions between merge markers, and the first one was taken. Its sizes are written for ViT-B/32 at
224 pixels, and were replaced by those of this CLIP: width 128, 2 heads, 4 x 4 patches of 8 pixels, 3 layers. Added
parameters are random multiples of 1/256 (convolutions) or 1/32, and 1/4 for the slopes. Each video is encoded alone,
since the release scales the weights of frames over the batch. The bias of that convolution cancels and is left out.
"""

from __future__ import annotations

import torch
from golden import WORDS, arrays, check_weighted_sum, close_gradient, golden_backbone, take_weights

from components.methods.build import build


def test_outputs_and_gradients() -> None:
    case, inputs = arrays("stop_linear"), arrays("case01_plain_meanp")
    raw = {"lr": 1e-3, "grid": "released"}
    method = build("stop", raw, golden_backbone(), frames=4, words=WORDS).eval()
    trained = take_weights(method, case)
    video, text = method(inputs["in.video"], torch.ones(4, 4, dtype=torch.bool), inputs["in.text"])
    check_weighted_sum({"video": video, "text": text}, case, 2e-6)
    compared = {key.removeprefix("grad.") for key in case if key.startswith("grad.")}
    assert len(compared) >= 20
    for key in compared:
        # A mark has the gradient of a sigmoid, which the release does not have. It reaches that convolution only.
        assert not key.startswith("spatial.variation")
        close_gradient(key, trained[key].grad, case[f"grad.{key}"])
