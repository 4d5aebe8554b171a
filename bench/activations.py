"""Peak of living tensors: what a computation needs beyond the tensors that were there before, without any allocator."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Living(TorchDispatchMode):
    """Counts the bytes of storages made by operators for as long as anything holds them."""

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
    """MiB that ``turn`` held at most in tensors of its own; operators' scratch memory is not seen."""
    living = _Living()
    with living:
        turn()
    return living.peak / 2**20
