"""DGL compared with the authors' release, forward and backward, on the CLIP of ``backbone.npz``.

The arrays come from https://github.com/knightyxp/DGL, ``modules/clip.py``, class ``CLIP`` with ``args`` of
``text_prompt_length 8, local_each_frame_prompt_length 4, global_visual_prompt_length 4, unified_transformer_layers 3,
visual_output_type global_prompt0``, four frames, and ``shared_latent_space`` linear or transformer. Its added
parameters are random multiples of 1/32. ``encode_prompt, encode_image, encode_text`` on the inputs of
``case01_plain_meanp`` are L2-normalised. The gradients are those of the sum of all embeddings times
``linspace(-1, 1, 32)``. The release's text prompts after the padding have the gradient zero.
"""

from __future__ import annotations

import pytest
import torch
from golden import WORDS, arrays, check_weighted_sum, close_gradient, golden_backbone, take_weights

from components.methods.build import build


@pytest.mark.parametrize("generator", ["linear", "transformer"])
def test_outputs_and_gradients(generator: str) -> None:
    case, inputs = arrays(f"dgl_{generator}"), arrays("case01_plain_meanp")
    method = build("dgl", {"lr": 1e-3, "generator": generator}, golden_backbone(), frames=4, words=WORDS)
    trained = take_weights(method, case)
    video, text = method(inputs["in.video"], torch.ones(4, 4, dtype=torch.bool), inputs["in.text"])
    check_weighted_sum({"video": video, "text": text}, case, 2e-6)
    compared = 0
    for key, parameter in trained.items():
        assert parameter.grad is not None, key
        if f"grad.{key}" in case:
            close_gradient(key, parameter.grad, case[f"grad.{key}"])
            compared += 1
    assert compared >= 3
