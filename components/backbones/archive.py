"""Reads the tensors of a TorchScript archive without running its code. OpenAI's CLIP files have this form.

``torch.jit.load`` would compile and run what the archive holds. Here only the tree of modules is read: a pickle in
which every class is a name and every tensor points to a record of the zip file.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import torch
from torch import Tensor

_TREE, _MARK = "data.pkl", "constants.pkl"
_STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_COMMANDS = [command for command in pickletools.opcodes if command.proto <= 2 and not command.name.startswith("EXT")]
_DEEPEST = 64  # levels of modules


def is_archive(path: Path) -> bool:
    """Whether the file is a TorchScript archive, as opposed to a pickled state dict."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(PurePosixPath(name).name == _MARK for name in archive.namelist())


def read_archive(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive by their place in the tree of modules, such as ``visual.conv1.weight``.

    Raises:
        ValueError: The archive is damaged, or its pickle asks for more than modules and tensors.
        OSError: The file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = next((name for name in archive.namelist() if PurePosixPath(name).name == _TREE), None)
            if root is None:
                raise ValueError(f"the archive has no {_TREE}")
            with archive.open(_stored(archive, root)) as stream:
                tree = _Tree(stream, archive, root.removesuffix(_TREE)).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError, LookupError, AttributeError, TypeError, EOFError) as error:
        raise ValueError(f"damaged archive ({type(error).__name__}: {error})") from None
    if not isinstance(tree, _Module):
        raise ValueError(f"the archive holds a {type(tree).__name__} instead of a module")
    return dict(_tensors(tree, "", 0))


def _stored(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The entry of a record. PyTorch compresses none of these, and a compressed one could be of any size."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"record {name} is compressed")
    return info


class _Module:
    """A module of the archive: its attributes by name."""

    entries: dict[str, Any]

    def __new__(cls) -> _Module:
        module = super().__new__(cls)
        module.entries = {}
        return module


def _build(reader: Any) -> None:
    """The command BUILD, for modules only: elsewhere it would set attributes of any object."""
    state = reader.stack.pop()
    module = reader.stack[-1]
    if not isinstance(module, _Module) or not isinstance(state, dict):
        raise pickle.UnpicklingError(f"a {type(module).__name__} is given a {type(state).__name__}")
    module.entries = state


class _Tree(pickle._Unpickler):
    """The unpickler in Python: that in C makes room for as many objects as a file states, whatever its length."""

    # TorchScript writes protocol 2. A command of a later one, or of the registry of extensions, is no key here.
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{ord(command.code): pickle._Unpickler.dispatch[ord(command.code)] for command in _COMMANDS},
        pickle.BUILD[0]: _build,
    }

    def __init__(self, stream: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(stream)
        self.archive, self.folder = archive, folder
        self.storages: dict[tuple[str, torch.dtype], Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a name of the pickle means. Nothing is imported."""
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        known: dict[tuple[str, str], Any] = {
            ("torch.jit._pickle", "restore_type_tag"): lambda value, *_: value,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda value, *_: value,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"the archive names {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        """The flat tensor of a storage: ``('storage', type, record, device, number of elements)``."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError(f"unknown reference {pid!r}")
        if (key, dtype) not in self.storages:
            info = _stored(self.archive, f"{self.folder}data/{key}")
            if count * dtype.itemsize > info.file_size:
                raise pickle.UnpicklingError(
                    f"tensor {key} claims {count * dtype.itemsize} bytes, its record has {info.file_size}"
                )
            content = bytearray(self.archive.read(info))
            flat = torch.frombuffer(content, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
            self.storages[key, dtype] = flat
        return self.storages[key, dtype]


def _tensor(flat: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride), default=0) < 0 or (0 not in size and last >= flat.numel()):
        raise pickle.UnpicklingError(f"a tensor of shape {list(size)} reaches beyond its record")
    return flat.as_strided(size, stride, offset)


def _tensors(module: _Module, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if depth > _DEEPEST:
        raise ValueError(f"the archive has more than {_DEEPEST} levels of modules")
    for name, value in module.entries.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.", depth + 1)
