"""Every ordered pair of methods is right in one model, or is refused with a sentence that says why.

Right means: the embedding of a video or text does not depend on what else is in the batch, on its place there or on
padding; gradients reach every parameter that trains; and an untrained method that starts as CLIP changes nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from tiny_backbone import FRAMES, TEXTS, WORDS, clips
from torch import Tensor
from torch.nn import functional as F
from variants import BACKBONE

from components.errors import ConfigError
from components.methods import METHODS
from components.methods.base import Method
from components.methods.build import build, method_class

# Two texts fill the context of the methods, and one is cut.
LONG = [*TEXTS[:2], "one two three four five six seven eight nine ten eleven twelve", "a b c d e f g h i j"]
LENGTHS = [FRAMES, 2, 3, 0, 1]

# Sizes that keep seven hundred models quick, and changes that fit a default to so small a tower.
SMALL: dict[str, dict[str, Any]] = {
    "adapter_attn": {"bottleneck": 16},
    "adapter_ffn": {"bottleneck": 16},
    "adaptformer_par": {"bottleneck": 16},
    "adaptformer_seq": {"bottleneck": 16},
    "st_adapter": {"bottleneck": 16, "text_bottleneck": 4},
    "convpass": {"bottleneck": 16, "text_bottleneck": 4},
    "cm_adapter": {"shared": 4},
    "lora": {"rank": 2},
    "tempme": {"groups": [2, 3]},
    "discovla": {"fusion_layers": 2, "bottleneck": 2},
    "dgl": {"frame_prompts": 2, "global_prompts": 2},
    "dora": {"rank": 2, "targets": ["qkv", "proj"]},
    "seq_transf": {"start": "random", "layers": 1},
    "stop": {"frame_prompts": 2, "global_prompts": 2, "regions": 2, "hidden": 2, "bottleneck": 4, "dropout": 0.0},
    "vpt": {"prompts": 3},
    "coop": {"prompts": 4},
    "vop_c": {"context_width": 8},
    "vop_fc": {"context_width": 8},
    "vop_pc": {"context_width": 8},
    "vop_fpc": {"context_width": 8},
    "mv_adapter": {"bottleneck": 8, "factor": 4},
}

# Forms of registered methods that lay out a sequence in another way: the method's name and its settings.
FORMS: dict[str, dict[str, Any]] = {
    "vpt": {"depth": "shallow"},
    "vop": {"text_layout": "released"},
    "vop_p": {"video_layers": [0, 2], "text_layers": [1]},
    "vop_c": {"video_layers": [1, 2], "context_module": "transformer", "context_depth": 1},
    "vop_f": {"intra_layers": 0},
    "vop_fp": {"intra_layers": 1, "video_layers": [0, 2]},
    "vop_fc": {"video_prompts": 4, "intra_layers": 1},
    "mv_adapter": {"form": "paper", "text_attention": "full", "cc": False},
    "coop": {"prompts": 3},
}  # fmt: skip


def entry(first: str, second: str, forms: bool = False) -> dict[str, Any]:
    """Two methods as in params.yaml."""
    parts = {name: (FORMS if forms else SMALL).get(name, {}) for name in (first, second)}
    return {"method": [first, second], "lr": 1e-2, **parts}


def pair(raw: dict[str, Any], moved: bool = True) -> Method:
    """The model of an entry. ``moved`` adds noise, so that parameters that start at zero take part."""
    torch.manual_seed(11)
    method = build("pair", raw, BACKBONE, frames=FRAMES, words=WORDS)
    return move(method) if moved else method


def move(method: Method) -> Method:
    with torch.no_grad():
        for parameter in method.trainable().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return method


@cache
def batches() -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """The same videos and texts in two batches: other places, other company, other padding."""
    frames, _ = clips(BACKBONE, len(LENGTHS))
    mask = torch.arange(FRAMES) < torch.tensor(LENGTHS)[:, None]
    frames = torch.where(mask[..., None, None, None], frames, 9.0)
    tokens = BACKBONE.tokenize([*LONG, "it turns"], WORDS)
    # Without the longest video, less padding is left, and what it holds differs.
    order = torch.tensor([4, 2, 3, 1])
    others = clips(BACKBONE, 1, 3, seed=5)[0]
    again = torch.cat([others, torch.where(mask[..., None, None, None], frames, -4.0)[order, :3]])
    seen = torch.cat([torch.ones(1, 3, dtype=torch.bool), mask[order, :3]])
    return (frames, mask, tokens), (again, seen, torch.cat([tokens[:1], tokens[order]]))


def check(method: Method) -> str:
    """What is wrong with a model; empty if nothing is."""
    first, second = batches()
    video, text = method(*first)
    with torch.no_grad():
        video_again, text_again = method(*second)
    order = [4, 2, 3, 1]
    if not (torch.isfinite(video).all() and (video[order] - video_again[1:]).abs().max() <= 5e-6):
        return "a video's embedding depends on the batch"
    # VoP's released layout reads columns after the end token, so a text's padded length matters there.
    if not (text[order] - text_again[1:]).abs().max() <= 5e-6:
        return "a text's embedding depends on the batch"
    length = torch.full((4,), float(video.shape[1] / method.spec.embed_dim)).sqrt()
    if video[3].any() or not torch.allclose(video[[0, 1, 2, 4]].norm(dim=-1), length, atol=1e-5):
        return "embeddings are not unit vectors, or a video without frames is not zero"
    F.cross_entropy(10 * method.similarity.matrix(text, video), torch.arange(len(text))).backward()
    without = [
        name
        for name, p in method.trainable().items()
        if p.grad is None or not 0 < float(p.grad.abs().sum()) < float("inf")
    ]
    return f"no gradient reaches {without}" if without else ""


# Parts that train some of the same weights of the backbone.
OVERLAP = [{"full", other} for other in ("bias", "proj", "partial")] + [{"bias", "partial"}]
# Methods that look for frames, patches or the first token in the vision tower. Merging leaves none of these.
LOOKING = {
    "st_adapter", "convpass", "vpt", "mv_adapter", "discovla", "dgl", "stop",
    *(name for name in METHODS if "vop" in name),
}  # fmt: skip
# Their global prompts are read out, and attention is their own.
GLOBAL = {"dgl", "stop"}
POOLING = {*GLOBAL, "seq_transf", "late"}


def refusal(first: str, second: str) -> str:
    """Why two methods are not in one model; empty if they can be."""
    both = {first, second}
    if both in OVERLAP:
        return "two parts train the same weights"
    if "tempme" in both and both & LOOKING:
        return "another part needs the frames or patches there"
    if both <= POOLING:
        return "two parts replace the pooling of frames"
    if not both & GLOBAL:
        return ""
    if any(name == "vpt" or name.startswith("vop") for name in both):
        return "and one must be alone there: its global prompts attend to all frames"
    return "reads a prompt out of the vision tower" if both & {"mv_adapter", "discovla"} else ""


@pytest.mark.slow
@pytest.mark.parametrize("first", METHODS)
def test_every_pair_is_right_or_refused(first: str) -> None:
    wrong = {}
    for second in METHODS:
        if second == first:
            continue
        try:
            method = pair(entry(first, second))
        except ConfigError as error:
            reason = refusal(first, second)
            if not reason or reason not in str(error):
                wrong[second] = str(error)
            continue
        fault = check(method) or ("not refused" if refusal(first, second) else "")
        if fault:
            wrong[second] = fault
    assert not wrong


PROMPTS = ["coop", "vpt", "dgl", "stop", *(name for name in METHODS if name.startswith("vop"))]


@pytest.mark.parametrize("first", FORMS)
def test_other_forms_too(first: str) -> None:
    """Pairs of other forms of the methods that put tokens into a tower, and of an adapter that finds CLIP's."""
    wrong = {}
    for second in FORMS:
        if second == first:
            continue
        try:
            method = pair(entry(first, second, forms=True))
        except ConfigError as error:
            # VoP's released layout allows no other prompts in the text tower. VPT has none there.
            right = "vop" in (first, second) and {first, second} <= {*PROMPTS} - {"vpt"}
            if not right or "one must be alone there: text_layout: released reads a column" not in str(error):
                wrong[second] = str(error)
            continue
        fault = check(method)
        if fault:
            wrong[second] = fault
    assert not wrong


def adapters() -> list[str]:
    """The methods that start as CLIP and train parameters that are not CLIP's."""
    found = []
    for name in METHODS:
        lr = {} if name == "zero_shot" else {"lr": 1e-2}
        method = build(name, {**lr, **SMALL.get(name, {})}, BACKBONE, frames=FRAMES, words=WORDS)
        if method.starts_as_identity and method_class(name).tuned is Method.tuned:
            found.append(name)
    return found


@pytest.mark.parametrize("prompts", PROMPTS)
def test_an_untrained_adapter_changes_nothing_in_any_layout(prompts: str) -> None:
    """An adapter whose output is zero leaves prompts as they are, and one whose output is not changes them."""
    inputs = batches()[0]
    with torch.no_grad():
        for adapter in adapters():
            if refusal(prompts, adapter):
                continue
            for names in ((prompts, adapter), (adapter, prompts)):
                model: Any = pair(entry(*names), moved=False)
                alone = move(model.members()[names.index(prompts)])
                for both, single in zip(model(*inputs), alone(*inputs), strict=True):
                    assert (both - single).abs().max() <= 1e-6, names
