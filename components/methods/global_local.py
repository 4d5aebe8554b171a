"""Global-local attention: prompts of a whole video that see all frames, and frames that see only themselves and them.

DGL and STOP use these hooks. A video is one sequence ``[frame 1, ..., frame T, global prompts]``, and each frame is
``[class token, frame prompts, patches]``. With G the global prompts and F_t the tokens of frame t, a layer computes::

    F_t  attends to  [G, F_t]        G  attends to  [G, F_1, ..., F_T]

Frame prompts are fresh in each layer. Global prompts run through all layers, and the first one is read out in place of
the class tokens. No prompt has a position or passes ``ln_pre``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from components.backbones.hooks import Flow, Hooks, all_valid


class GlobalLocal(Hooks):
    """The vision tower's prompts and attention.

    After the tower, every frame of a video has the features of the video's first global prompt.

    Args:
        global_prompts: ``float[G, D]``.
    """

    adds_tokens = True
    alone = "its global prompts attend to all frames, and a frame's tokens to their frame"
    reads_prompt = True

    def __init__(self, global_prompts: Tensor) -> None:
        self.global_prompts = global_prompts

    def frame_prompts(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        """The frame prompts of layer ``i``, whose input is ``x``: ``float[B, T, P, D]``, or 1 instead of B."""
        raise NotImplementedError

    def before_layer(self, i: int, x: Tensor, flow: Flow) -> Tensor:
        assert flow.mask is not None, "the vision tower passes the frame mask"
        videos, frames = flow.mask.shape
        fresh = self.frame_prompts(i, x, flow).expand(videos, frames, -1, -1)
        x = flow.exchange(x, self, fresh.flatten(0, 1))
        if i > 0:
            return x
        x = flow.join(x)
        total = x.shape[1]
        x = flow.exchange_tail(x, self, self.global_prompts.expand(videos, -1, -1))
        flow.attention = attention_mask(flow.mask, total // frames, len(self.global_prompts))
        # The tower has a row per frame, so the column of the first global prompt is repeated.
        flow.readout = torch.full((videos, frames), total, device=x.device)
        return x


def attention_mask(mask: Tensor, length: int, prompts: int) -> Tensor:
    """Which tokens a token attends to.

    Args:
        mask: ``bool[B, T]``, valid frames.
        length: The number of tokens per frame.
        prompts: The number of global prompts, which come after the frames.

    Returns:
        ``bool[B, 1, L, L]``, or 1 instead of B where no frame is padding.
    """
    frames = mask.shape[1]
    frame = F.pad(torch.arange(frames, device=mask.device).repeat_interleave(length), (0, prompts), value=-1)
    of_prompt = frame < 0
    seen = (frame[:, None] == frame) | of_prompt[:, None] | of_prompt
    if all_valid(mask):
        return seen[None, None]
    valid = F.pad(mask.repeat_interleave(length, dim=1), (0, prompts), value=True)
    return (seen & valid[:, None])[:, None]
