"""Adapter folders: ``adapter.json`` and ``adapter.safetensors``. They hold nothing of the backbone and no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from components import storage
from components.adapters.card import FORMAT, WEIGHTS, AdapterCard, ParameterInfo, TrainingFacts, read_card, write_card
from components.backbones.clip import Backbone, parameter_total
from components.errors import AdapterError
from components.methods.base import Method
from components.methods.build import build, parameter_shapes
from components.provenance import sha256_file

# No training gives weights near this one. Products of larger ones leave the range of float32, and every score is NaN.
LARGEST_WEIGHT = 1e6

__all__ = ["load_adapter", "read_card", "save_adapter"]


def save_adapter(
    folder: Path,
    method: Method,
    *,
    task: str,
    provenance: Mapping[str, Any],
    label: str | None = None,
    extra: TrainingFacts | None = None,
) -> None:
    """Writes the two files of an adapter, the card last. Each file appears whole or not at all.

    The card holds the hash of the weights, so :func:`load_adapter` refuses a save that was interrupted.

    Args:
        folder: Where to write. It is made if absent, and other files in it stay.
        method: The method. Its trainable parameters are saved.
        task: The collection that it was trained for.
        provenance: Commit and versions.
        label: The method's entry in params.yaml. None means its registered name.
        extra: What the training adds to the card.
    """
    tensors = {name: p.detach().to("cpu", torch.float32).contiguous() for name, p in method.trainable().items()}
    with storage.atomic_file(folder / WEIGHTS) as aside:
        save_file(tensors, aside, metadata={"method": method.name})
        size, sha256 = aside.stat().st_size, sha256_file(aside)
    trainable = sum(tensor.numel() for tensor in tensors.values())
    card = AdapterCard(
        format=FORMAT,
        method=method.name,
        label=label or method.name,
        temporal=method.temporal,
        settings=asdict(method.settings),
        task=task,
        frames=method.frames,
        words=method.words,
        backbone=method.spec,
        parameters={
            name: ParameterInfo(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in tensors.items()
        },
        trainable=trainable,
        share=trainable / parameter_total(method.backbone),
        bytes=size,
        sha256=sha256,
        provenance=dict(provenance),
        extra=extra or TrainingFacts(),
    )
    write_card(folder, card)


def load_adapter(folder: Path, backbone: Backbone) -> Method:
    """The method in ``folder``, on ``backbone``, in evaluation mode.

    Raises:
        AdapterError: The files are missing or damaged, the adapter is bound to another backbone (the message holds both
            specs), its parameters are not exactly those of the method, or a weight is NaN, infinite or huge.
        ConfigError: The adapter's method is not installed. The message says what to install.
    """
    folder = Path(folder)
    card = read_card(folder)
    if card.backbone != backbone.spec:
        raise AdapterError(
            f"adapter is bound to another backbone (differs in {', '.join(card.backbone.differences(backbone.spec))})",
            where=folder,
            found=backbone.spec.to_dict(),
            expected=card.backbone.to_dict(),
            cure=f"train it on this backbone (`dvc repro`), or give the task the adapter's, {card.backbone.model}: "
            f"tasks.{card.task}.backbone, or backbone where the task has none",
        )
    weights = folder / WEIGHTS
    _check_hash(weights, card)
    _check_shapes(weights, card, backbone)
    method = build(card.method, card.settings, backbone, frames=card.frames, words=card.words, where=str(folder))
    _fill(method, weights)
    return method.eval()


def _check_hash(path: Path, card: AdapterCard) -> None:
    if not path.is_file():
        raise AdapterError("adapter weights are missing", where=path)
    found = sha256_file(path)
    if found != card.sha256:
        raise AdapterError(
            "adapter weights are damaged or of another card", where=path, found=found, expected=card.sha256
        )


def _check_shapes(path: Path, card: AdapterCard, backbone: Backbone) -> None:
    """Compares the file's header with the method, before memory is taken for either."""
    try:
        with safe_open(path, "pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118  # it is no mapping
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            dtypes = {name: part.get_dtype() for name, part in slices.items()}
    except (OSError, SafetensorError) as error:
        raise AdapterError("adapter weights cannot be read", where=path, found=str(error)) from None
    expected = parameter_shapes(
        card.method, card.settings, backbone, frames=card.frames, words=card.words, where=str(path.parent)
    )
    missing, unexpected = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
    if missing or unexpected:
        raise AdapterError(
            f"adapter weights are not those of {card.method}",
            where=path,
            found={"missing": missing[:5], "unexpected": unexpected[:5]},
        )
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise AdapterError(f"{name} has another shape", where=path, found=list(shapes[name]), expected=list(shape))
        if dtypes[name] != "F32":
            raise AdapterError(f"{name} has another type", where=path, found=dtypes[name], expected="F32 (float32)")


def _fill(method: Method, path: Path) -> None:
    """Copies the weights in ``path`` into the trainable parameters of ``method``."""
    tensors = load_file(path)
    for name, parameter in method.trainable().items():
        # A comparison with NaN is false.
        if not bool((tensors[name].abs() <= LARGEST_WEIGHT).all()):
            worst = tensors[name].flatten()[(~(tensors[name].abs() <= LARGEST_WEIGHT)).flatten()][0]
            raise AdapterError(
                f"{name} holds a value that no training gives",
                where=path,
                found=float(worst),
                expected=f"finite numbers up to {LARGEST_WEIGHT:g}",
                cure="train again",
            )
        with torch.no_grad():
            parameter.copy_(tensors[name])
