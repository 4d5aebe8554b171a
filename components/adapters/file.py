"""Adapter folders: ``adapter.json`` and ``adapter.safetensors``, nothing of the backbone and never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.adapters.card import CARD, FORMAT, WEIGHTS, read_card
from components.backbones.clip import Backbone, parameter_total
from components.backbones.spec import BackboneSpec
from components.errors import AdapterError
from components.methods.base import Method, build
from components.provenance import sha256_file

__all__ = ["load_adapter", "read_card", "save_adapter"]


def save_adapter(
    folder: Path,
    method: Method,
    *,
    task: str,
    provenance: Mapping[str, Any],
    label: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes the two files; each is written aside and renamed, the card last.

    The card holds the hash of the weights, so that a save that was cut short is refused by :func:`load_adapter`.

    Args:
        folder: made if absent; other files in it stay.
        method: whose trainable parameters are saved.
        task: the collection that it was trained for.
        provenance: commit and versions.
        label: the method's entry in params.yaml; None for its registered name.
        extra: anything else worth keeping, JSON-able.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().to("cpu", torch.float32).contiguous() for name, p in method.trainable().items()}
    aside = folder / f".{WEIGHTS}.{os.getpid()}"
    save_file(tensors, aside, metadata={"method": method.name})
    trainable = sum(tensor.numel() for tensor in tensors.values())
    card = {
        "format": FORMAT,
        "method": method.name,
        "label": label or method.name,
        "temporal": method.temporal,
        "settings": asdict(method.settings),
        "task": task,
        "frames": method.frames,
        "words": method.words,
        "backbone": method.spec.to_dict(),
        "parameters": {
            name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in tensors.items()
        },
        "trainable": trainable,
        "share": trainable / parameter_total(method.backbone),
        "bytes": aside.stat().st_size,
        "sha256": sha256_file(aside),
        "provenance": dict(provenance),
        "extra": dict(extra or {}),
    }
    card_aside = folder / f".{CARD}.{os.getpid()}"
    card_aside.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    os.replace(aside, folder / WEIGHTS)
    os.replace(card_aside, folder / CARD)


def load_adapter(folder: Path, backbone: Backbone) -> Method:
    """The method in ``folder``, on ``backbone``, in evaluation mode.

    Raises:
        AdapterError: absent or damaged files, another backbone (both specs are in the message), or parameters that are
            not exactly those of the method.
    """
    folder = Path(folder)
    card = read_card(folder)
    spec = BackboneSpec.from_dict(card["backbone"], folder / CARD)
    if spec != backbone.spec:
        raise AdapterError(
            f"adapter is bound to another backbone (differs in {', '.join(spec.differences(backbone.spec))})",
            where=folder,
            found=backbone.spec.to_dict(),
            expected=spec.to_dict(),
            cure="load the backbone that the adapter was trained on",
        )
    tensors = _read_weights(folder / WEIGHTS, card)
    method = build(card["method"], card["settings"], backbone, frames=card["frames"], words=card["words"])
    _fill(method, tensors, folder / WEIGHTS)
    return method.eval()


def _read_weights(path: Path, card: Mapping[str, Any]) -> dict[str, Tensor]:
    if not path.is_file():
        raise AdapterError("adapter weights are missing", where=path)
    found = sha256_file(path)
    if found != card["sha256"]:
        raise AdapterError(
            "adapter weights are damaged or of another card", where=path, found=found, expected=card["sha256"]
        )
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError("adapter weights cannot be read", where=path, found=str(error)) from None


def _fill(method: Method, tensors: Mapping[str, Tensor], where: Path) -> None:
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
