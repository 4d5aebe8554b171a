"""The frame reader that a method needs."""

from __future__ import annotations

from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method

# More threads do not feed one GPU faster.
GPU_THREADS = 8


def reader_for(method: Method, store: FrameStore, cache_mib: int = 0, threads: int = 0) -> FrameReader:
    """A reader of frames in the size and number that ``method`` takes.

    Args:
        method: The method, on the device that encodes.
        store: The frames.
        cache_mib: Memory for decoded frames. A single pass over the videos needs none.
        threads: Threads that decode. 0 takes eight if the method is on a GPU, else one.
    """
    on_gpu = next(method.backbone.parameters()).device.type == "cuda"
    threads = threads or (GPU_THREADS if on_gpu else 1)
    return FrameReader(store, method.backbone.resize, method.frames, cache_mib, threads)
