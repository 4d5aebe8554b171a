"""Reads checkpoints, fits them to a model, and computes the hash that identifies the weights."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from open_clip.model import resize_pos_embed, resize_text_pos_embed
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from components.backbones.archive import is_archive, read_archive
from components.errors import BackboneError

# Entries of OpenAI's archives that are not weights. No other CLIP has them.
OPENAI_ENTRIES = ("input_resolution", "context_length", "vocab_size")
INDEX_SUFFIX = ".index.json"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DAMAGED = "the file is damaged or its download was cut off: fetch it again"
_LFS_POINTER = b"version https://git-lfs.github.com/spec"


def load_weights(clip: Any, state: dict[str, Tensor], where: Path) -> None:
    """Puts weights into an open_clip model and resizes the positions where the image size differs.

    Args:
        clip: open_clip's ``CLIP`` or ``CustomTextCLIP``.
        state: The tensors by open_clip's names, which may be those of the other class.
        where: The file, for messages.

    Raises:
        BackboneError: The weights are of another model, are no floating-point numbers, or hold NaN or infinity.
    """
    expected = clip.state_dict()
    state = _renamed(state, expected)
    state["logit_scale"] = state.get("logit_scale", clip.logit_scale.detach()).reshape(clip.logit_scale.shape)
    if "logit_bias" in state and "logit_bias" in expected:
        state["logit_bias"] = state["logit_bias"].reshape(expected["logit_bias"].shape)
    if set(state) != set(expected):
        raise BackboneError(
            "weights belong to another model",
            where=where,
            cure="check backbone.model",
            found={
                "missing": sorted(set(expected) - set(state))[:5],
                "unexpected": sorted(set(state) - set(expected))[:5],
            },
        )
    _resize_positions(clip, state)
    wrong = {key: list(value.shape) for key, value in state.items() if value.shape != expected[key].shape}
    if wrong:
        key = sorted(wrong)[0]
        raise BackboneError(
            f"{len(wrong)} weights have another shape, such as {key}",
            where=where,
            found=wrong[key],
            expected=list(expected[key].shape),
            cure="check backbone.model",
        )
    _check_numbers(state, where)
    clip.load_state_dict(state)


def _renamed(state: dict[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """The names of the other class of open_clip: only ``CustomTextCLIP`` has ``text.`` before those of the text."""
    custom = any(name.startswith("text.") for name in expected)
    if not custom:
        return {name.removeprefix("text."): value for name, value in state.items()}
    if any(name.startswith("text.") for name in state):
        return dict(state)
    ours = ("visual.", "logit_")
    return {name if name.startswith(ours) else f"text.{name}": value for name, value in state.items()}


def _resize_positions(clip: Any, state: dict[str, Tensor]) -> None:
    for name in ("visual.positional_embedding", "positional_embedding"):
        if name in state:
            # Positions of another width or rank cannot be resized. The check of shapes names them.
            wanted = clip.state_dict()[name]
            if (
                state[name].ndim != 2
                or state[name].shape[1] != wanted.shape[1]
                or not state[name].dtype.is_floating_point
            ):
                return
            if state[name].shape != wanted.shape:
                state[name] = state[name].float()
    try:
        resize_pos_embed(state, clip)
        resize_text_pos_embed(state, clip)
    except (RuntimeError, ValueError):
        return  # a grid that is not square, which the check of shapes names


def _check_numbers(state: dict[str, Tensor], where: Path) -> None:
    for name, value in sorted(state.items()):
        if name.endswith(".num_batches_tracked"):
            continue  # a batch norm counts in whole numbers
        if value.dtype not in _FLOATS:
            raise BackboneError(
                "weights are no floating-point numbers",
                where=where,
                found={name: str(value.dtype)},
                expected="float16, bfloat16, float32 or float64",
                cure="take the weights that are not quantised",
            )
        if not torch.isfinite(value).all():
            raise BackboneError(
                "weights hold NaN or infinity",
                where=where,
                found=name,
                expected="finite numbers",
                cure="take an undamaged file",
            )


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint. No code of the file runs.

    It is a .safetensors, a pickled state dict, a TorchScript archive, or the index (.index.json) of several files.

    Tensors of .safetensors and of newer pickles stay in the file until they are used.

    Raises:
        BackboneError: The file is something else, or cannot be read.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return _read_shards(path)
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else _read_pickle(path)
    except (OSError, RuntimeError, ValueError, MemoryError, SafetensorError) as error:
        with path.open("rb") as stream:
            pointer = stream.read(len(_LFS_POINTER)) == _LFS_POINTER
        raise BackboneError(
            "weights cannot be read",
            where=path,
            found=(str(error).splitlines() or [type(error).__name__])[0],
            cure="this is only a pointer of Git LFS: run `git lfs pull` in its folder" if pointer else _DAMAGED,
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise BackboneError("weights file is not a state dict", where=path, expected="a mapping of names to tensors")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _read_shards(index: Path) -> dict[str, Tensor]:
    files = weight_map(index)
    state: dict[str, Tensor] = {}
    for name in sorted(set(files.values())):
        path = index.parent / name
        if Path(name).name != name or not path.is_file():
            raise BackboneError(
                "a file of the weights is missing", where=index, found=name, cure="fetch the whole folder again"
            )
        state.update(read_state(path))
    if set(state) != set(files):
        lost = sorted(set(state) ^ set(files))
        raise BackboneError(
            f"{len(lost)} tensors are only in the index or only in its files",
            where=index,
            found=lost[:5],
            cure="fetch the whole folder again",
        )
    return state


def weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, as the index of a checkpoint in several files has it.

    Raises:
        BackboneError: The index cannot be read.
    """
    try:
        return {str(name): str(file) for name, file in json.loads(index.read_bytes())["weight_map"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BackboneError(
            "index of weights cannot be read",
            where=index,
            found=f"{type(error).__name__}: {error}",
            expected="a JSON object with a weight_map of tensors to files",
            cure=_DAMAGED,
        ) from None


def _read_pickle(path: Path) -> Any:
    if is_archive(path):
        # OpenAI's attention masks are attributes. They are no weights.
        return {name: value for name, value in read_archive(path).items() if not name.endswith("attn_mask")}
    packed = zipfile.is_zipfile(path)
    if packed:
        with zipfile.ZipFile(path) as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise ValueError("the file is compressed")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=packed)
    except (pickle.UnpicklingError, EOFError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(str(error) or type(error).__name__) from None


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
