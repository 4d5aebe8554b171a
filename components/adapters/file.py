"""Adapter folders: ``adapter.json`` and ``adapter.safetensors``. They hold nothing of the backbone and no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components import storage
from components.adapters.card import FORMAT, WEIGHTS, AdapterCard, ParameterInfo, TrainingFacts, read_card, write_card
from components.backbones.clip import Backbone, parameter_total
from components.errors import AdapterError
from components.methods.base import Method
from components.methods.build import build
from components.provenance import sha256_file

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
            specs), or its parameters are not exactly those of the method.
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
            cure="load the backbone that the adapter was trained on",
        )
    tensors = _read_weights(folder / WEIGHTS, card.sha256)
    method = build(card.method, card.settings, backbone, frames=card.frames, words=card.words, where=str(folder))
    _fill(method, tensors, folder / WEIGHTS)
    return method.eval()


def _read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise AdapterError("adapter weights are missing", where=path)
    found = sha256_file(path)
    if found != sha256:
        raise AdapterError("adapter weights are damaged or of another card", where=path, found=found, expected=sha256)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError("adapter weights cannot be read", where=path, found=str(error)) from None


def _fill(method: Method, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Copies ``tensors`` into the trainable parameters of ``method``. Names and shapes must be equal."""
    parameters = method.trainable()
    missing, unexpected = sorted(set(parameters) - set(tensors)), sorted(set(tensors) - set(parameters))
    if missing or unexpected:
        raise AdapterError(
            f"adapter weights are not those of {method.name}",
            where=where,
            found={"missing": missing[:5], "unexpected": unexpected[:5]},
        )
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise AdapterError(
                f"{name} has another shape",
                where=where,
                found=list(tensors[name].shape),
                expected=list(parameter.shape),
            )
        with torch.no_grad():
            parameter.copy_(tensors[name])
