"""Reads checkpoints, fits them to a model, and computes the hash that identifies the weights."""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP, resize_pos_embed, resize_text_pos_embed
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from components.errors import BackboneError

# Entries of OpenAI's archives that are not weights.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")


def load_weights(clip: CLIP, path: Path) -> None:
    """Reads a checkpoint into an open_clip ``CLIP`` and resizes the positions where the image size differs.

    Raises:
        BackboneError: The file is damaged or holds another model.
    """
    state = read_state(path)
    if any(key.startswith("text.") for key in state):
        state = {key.removeprefix("text."): value for key, value in state.items()}
    state["logit_scale"] = state.get("logit_scale", clip.logit_scale.detach()).reshape(clip.logit_scale.shape)
    expected = clip.state_dict()
    if set(state) != set(expected):
        raise BackboneError(
            "weights belong to another model",
            where=path,
            cure="check backbone.model",
            found={
                "missing": sorted(set(expected) - set(state))[:5],
                "unexpected": sorted(set(state) - set(expected))[:5],
            },
        )
    resize_pos_embed(state, clip)
    resize_text_pos_embed(state, clip)
    wrong = {key: list(value.shape) for key, value in state.items() if value.shape != expected[key].shape}
    if wrong:
        key = sorted(wrong)[0]
        raise BackboneError(
            f"{len(wrong)} weights have another shape, such as {key}",
            where=path,
            found=wrong[key],
            expected=list(expected[key].shape),
            cure="check backbone.model",
        )
    clip.load_state_dict(state)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: .safetensors, a pickled state dict (weights only) or a TorchScript archive.

    Raises:
        BackboneError: The file is something else, or cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = _read_pickle(path)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise BackboneError("weights cannot be read", where=path, found=str(error).splitlines()[0]) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise BackboneError("weights file is not a state dict", where=path, expected="a mapping of names to tensors")
    return {key.removeprefix("module."): value for key, value in state.items() if key not in _NOT_WEIGHTS}


def _read_pickle(path: Path) -> Any:
    if zipfile.is_zipfile(path) and any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()):
        with warnings.catch_warnings():
            # OpenAI's published files are TorchScript archives, which torch calls deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(str(path), map_location="cpu").state_dict()
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(str(error)) from None


def weights_sha256(backbone: nn.Module) -> str:
    """SHA-256 over the sorted names and the float32 bytes of all weights. It does not depend on the file format.

    A backbone on the meta device, which is built to count parameters, has no weights and gets no hash.
    """
    if any(value.is_meta for value in backbone.state_dict().values()):
        return "no weights"
    digest = hashlib.sha256()
    for name, value in sorted(backbone.state_dict().items()):
        digest.update(f"{name}:{list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()
