"""The cost of a method: parameters, multiply-adds and bytes. Nothing is loaded: it is counted on PyTorch's meta device.

Multiply-adds are those of matrix products, convolutions and attention, as PyTorch's FLOP counter sees them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from components.backbones.clip import Backbone, parameter_total
from components.backbones.load import untrained
from components.backbones.towers import Chain, Flow, Hooks
from components.methods import METHODS
from components.methods.base import Method
from components.methods.build import build


@dataclass(frozen=True)
class Count:
    """The cost of one method on one backbone. Multiply-adds are 0 where they are not counted.

    Attributes:
        label: The entry of ``methods``.
        model: The backbone's name.
        trainable: Scalars that train.
        total: Scalars in the backbone.
        paper_total: Scalars in the backbone as VoP's tables count them (:func:`paper_total`).
        video_macs: Multiply-adds to embed a video of T frames with every token in every layer, as papers count them.
        text_macs: Multiply-adds to embed a text of L tokens.
        video_macs_run: Multiply-adds that this implementation runs for a video. The last layer computes only the
            read-out tokens where it can.
        artifact_bytes: Size of ``adapter.safetensors``.
    """

    label: str
    model: str
    trainable: int
    total: int
    paper_total: int
    artifact_bytes: int
    video_macs: int = 0
    text_macs: int = 0
    video_macs_run: int = 0

    @property
    def ratio(self) -> float:
        """Trainable scalars divided by all scalars of the backbone."""
        return self.trainable / self.total

    @property
    def paper_ratio(self) -> float:
        """Trainable scalars divided by :attr:`paper_total`."""
        return self.trainable / self.paper_total


def meta_backbone(model: str, root: Path = Path()) -> Backbone:
    """A backbone without weights, on the meta device.

    Args:
        model: As ``backbone.model``.
        root: The folder that relative paths start from.

    Raises:
        BackboneError: The model is unknown or unsupported.
    """
    with torch.device("meta"):
        return untrained(model, root)


def count(
    label: str, raw: Mapping[str, Any], backbone: Backbone, *, frames: int, words: int, macs: bool = True
) -> Count:
    """Counts one method.

    Args:
        label: The entry of ``methods``.
        raw: Its settings.
        backbone: A backbone from :func:`meta_backbone`.
        frames: T, frames of the video.
        words: L, tokens of the text.
        macs: Whether to count multiply-adds, which runs both towers on the meta device.

    Raises:
        ConfigError: The settings do not fit the method.
    """
    with torch.device("meta"):
        method = build(label, raw, backbone, frames=frames, words=words)
    return Count(
        label=label,
        model=backbone.spec.model,
        trainable=sum(parameter.numel() for parameter in method.trainable().values()),
        total=parameter_total(backbone),
        paper_total=paper_total(backbone),
        video_macs=_video_macs(method, whole=True) if macs else 0,
        text_macs=_text_macs(method) if macs else 0,
        video_macs_run=_video_macs(method, whole=False) if macs else 0,
        artifact_bytes=weights_file_bytes(method),
    )


def weights_file_bytes(method: Method) -> int:
    """Size of the safetensors file: eight bytes, a JSON header padded to a multiple of eight, and the float32 data."""
    header: dict[str, Any] = {"__metadata__": {"method": method.name}}
    end = 0
    for name, parameter in method.trainable().items():
        start, end = end, end + 4 * parameter.numel()
        header[name] = {"dtype": "F32", "shape": list(parameter.shape), "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + end


def table(counts: Sequence[Count], macs: bool = True) -> str:
    """A text table, one row per method, with or without columns for multiply-adds."""
    columns: dict[str, Callable[[Count], str]] = {
        "method": lambda c: c.label,
        "trainable": lambda c: f"{c.trainable:,}",
        "of all": lambda c: f"{c.ratio:.3%}",
        "of paper's": lambda c: f"{c.paper_ratio:.3%}",
        "adapter MB": lambda c: f"{c.artifact_bytes / 1e6:.3f}",
    }
    if macs:
        columns |= {
            "video GMACs": lambda c: f"{c.video_macs / 1e9:.2f}",
            "as run": lambda c: f"{c.video_macs_run / 1e9:.2f}",
            "text GMACs": lambda c: f"{c.text_macs / 1e9:.3f}",
        }
    names, rows = tuple(columns), [tuple(cell(c) for cell in columns.values()) for c in counts]
    widths = [max(len(row[column]) for row in (names, *rows)) for column in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in (names, *rows)
    )  # fmt: skip


def published(model: str) -> dict[str, dict[str, Any]]:
    """An entry per method at its paper's sizes for this backbone, and further ones for released and composed forms."""
    wide = {"bottleneck": 128} if model.startswith("ViT-L") else {}
    entries: dict[str, dict[str, Any]] = {name: {"lr": 1e-3} if name != "zero_shot" else {} for name in METHODS}
    entries["mv_adapter"] |= wide
    for form in ("paper", "released"):
        entries[f"mv_adapter msrvtt {form}"] = {"method": "mv_adapter", "preset": "msrvtt", "form": form, **wide}
    parts = ["vop_fc", "mv_adapter"]
    entries["vop_fc + mv_adapter"] = {"method": parts, "lr": 1e-3, "mv_adapter": wide}
    if model.startswith("ViT-L"):
        # Layer numbers pair the towers only where both have the same depth.
        entries["mv_adapter msrvtt released"]["tied_layers"] = 2
    return entries


def paper_total(backbone: Backbone) -> int:
    """The sum over leaf modules: 119,826,432 for ViT-B/32, the "119.8 M" of VoP's tables.

    This leaves out the parameters that no leaf module holds: attention's fused input weights and biases, both output
    projections, position and class embeddings, and the logit scale.
    """
    leaves = [module for module in backbone.modules() if isinstance(module, _LEAVES)]
    return sum(parameter.numel() for module in leaves for parameter in module.parameters(recurse=False))


_LEAVES = (nn.Linear, nn.LayerNorm, nn.Conv2d, nn.Embedding)


class _Whole(Hooks):
    """Changes no value, but makes the last layer compute all tokens."""

    whole_last_layer = True


def _video_macs(method: Method, whole: bool) -> int:
    size, frames = method.spec.image_size, method.frames
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        mask = torch.ones(1, frames, dtype=torch.bool)
        links = [method.vision_hooks(), *([_Whole()] if whole else [])]
        pixels = torch.empty(frames, 3, size, size)
        features = method.backbone.vision(pixels, Chain(links), Flow(frames=frames, mask=mask))
        method.pool(features.view(1, frames, -1), mask)
    return int(counter.get_total_flops()) // 2


def _text_macs(method: Method) -> int:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        tokens = torch.zeros(1, method.words, dtype=torch.int64)
        method.backbone.text(tokens, Chain([method.text_hooks(), _Whole()]))
    return int(counter.get_total_flops()) // 2
