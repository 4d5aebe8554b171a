"""Peak memory of a computation in new tensors. It counts storages, so no allocator's rounding or cache is in it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Living(TorchDispatchMode):
    """Counts the bytes of the storages that operators make, for as long as anything holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.known = {x.untyped_storage()._cdata for x in gc.get_objects() if issubclass(type(x), torch.Tensor)}
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        self.peak = max(self.peak, self.bytes)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.bytes += size
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.bytes -= size


def peak_mib(turn: Callable[[], object]) -> float:
    """The most MiB that ``turn`` held in new tensors at one time. Scratch memory inside operators is not counted."""
    living = _Living()
    with living:
        turn()
    return living.peak / 2**20
