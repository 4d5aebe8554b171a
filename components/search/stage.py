"""The index stage: who embeds, and one stage at a time per task."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from components.adapters.file import load_adapter
from components.backbones.families import FAMILIES
from components.cluster import is_local
from components.fingerprint import code_of
from components.frames.store import FrameStore
from components.layout import Layout
from components.liveness import only_one
from components.methods.base import Method
from components.methods.entries import targets
from components.params import Params
from components.precision import Precision
from components.processes import pick_device
from components.search.backbones import adapter_backbone
from components.search.embed import (
    ALONE_SECONDS,
    Block,
    Embedder,
    Encoding,
    disk_faults,
    run_alone,
    run_on_ray,
    seconds_per_row,
)
from components.search.index import Index, Recipe, grow


@dataclass(frozen=True, eq=False)
class AdapterOpener:
    """Opens the embedder of an adapter in any process.

    Args:
        root: The project's folder. All machines of a cluster see it under this path.
        task: Key of the task.
        params: The settings.
        adapter: The adapter's folder.
        encoding: How vectors are computed.
    """

    root: Path
    task: str
    params: Params
    adapter: Path
    encoding: Encoding

    def __call__(self) -> Embedder:
        """Loads backbone, adapter and store."""
        return self.with_store(FrameStore(Layout(self.root).frames(self.task)))

    def with_store(self, store: FrameStore) -> Embedder:
        """Loads backbone and adapter, for a store that is open."""
        backbone, _ = adapter_backbone(self.adapter, self.params, self.task, self.root)
        method = load_adapter(self.adapter, backbone).to(pick_device(self.params.evaluation.device))
        return Embedder(method, store, self.encoding)


def encoding_of(params: Params) -> Encoding:
    """How params.yaml says that vectors are computed."""
    settings = params.evaluation
    return Encoding(
        settings.batch_size, settings.precision, params.search.frame_vectors, threads=params.training.threads
    )


def grow_index(opener: AdapterOpener, store: FrameStore, adapter_sha256: str, split: str) -> tuple[Method, Index]:
    """The next version of a task's index, with the method that made it. Call it inside :func:`locked`.

    Args:
        opener: Opens the adapter.
        store: The task's frames.
        adapter_sha256: Hash of its weights file.
        split: ``train``, ``val``, ``test`` or ``all``.

    Raises:
        ReelTuneError: As :func:`components.search.index.grow`. Or the disk is full: the index is as it was.
    """
    layout, embedder, params = Layout(opener.root), opener.with_store(store), opener.params
    work = layout.index_work(opener.task)
    encoding = opener.encoding
    recipe = Recipe(adapter_sha256, encoding, encoder_of(embedder.method, encoding.precision), params.search.exact_rows)

    def run(blocks: Sequence[Block]) -> None:
        workers = params.execution.index_workers
        on_gpu = pick_device(params.evaluation.device).type == "cuda"
        if workers == 1 or (workers == 0 and _is_quick(embedder, blocks, work, _slots(params, on_gpu))):
            run_alone(embedder, blocks)
        else:
            run_on_ray(opener, blocks, workers, params.ray, on_gpu)

    with disk_faults(layout.index(opener.task)):
        return embedder.method, grow(embedder.method, store, split, recipe, layout.index(opener.task), work, run)


def encoder_of(method: Method, precision: Precision) -> str:
    """Hash of what decides a vector, apart from the adapter's weights and the frames."""
    code = code_of("evaluate", [*targets(method.name), FAMILIES.target(method.spec.family)])
    return hashlib.sha256(f"{code.sha256} {precision}".encode()).hexdigest()


def finish(layout: Layout, task: str) -> None:
    """Deletes the blocks of a version that is published."""
    for name in ("blocks", "timed"):
        shutil.rmtree(layout.index_work(task) / name, ignore_errors=True)


@contextlib.contextmanager
def locked(layout: Layout, task: str) -> Iterator[None]:
    """Holds the lock of a task's index during a ``with`` block.

    Raises:
        DataError: Another process makes this index.
    """
    work = layout.index_work(task)
    work.mkdir(parents=True, exist_ok=True)
    with only_one(work, "another process makes this index"):
        yield


def _slots(params: Params, on_gpu: bool) -> int:
    """How many processes could embed at once, where that is known before Ray starts. A cluster has many."""
    if not is_local():
        return 1 << 16
    return torch.cuda.device_count() if on_gpu else params.ray.num_cpus


def _is_quick(embedder: Embedder, blocks: Sequence[Block], work: Path, slots: int) -> bool:
    """Whether this process embeds blocks before others would have started."""
    if slots == 1:
        return True
    rows = sum(len(block.rows) for block in blocks)
    return rows * seconds_per_row(embedder, blocks[0].rows, work / "timed") < ALONE_SECONDS
