"""How many forward passes a batch takes: as set, or the fewest that fit into the memory of the GPUs.

A batch that fits takes one pass per process, which is fastest. A batch that does not fit is encoded with GradCache, in
twice as many passes until it fits. The number affects rounding, so it is kept next to the checkpoints: a training that
is resumed divides its batches as before, whatever memory it finds.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.distributed as dist
from pydantic.dataclasses import dataclass

from components import storage
from components.config import STRICT
from components.errors import TrainingError
from components.methods.base import Method
from components.processes import gather, rank_and_world
from components.records import read_record, write_record
from components.training.batches import check_workers
from components.training.loader import BUFFERS
from components.training.settings import TrainingSettings
from components.training.step import StepGradients

logger = logging.getLogger(__name__)

FILE = "passes.json"
# Bytes of optimiser state and sums of gradients per trainable scalar: two moments and three sums of four bytes.
STATE_BYTES = 20


@dataclass(frozen=True, config=STRICT)
class Passes:
    """How a batch is divided.

    Attributes:
        micro_batches: V, the passes of all processes.
        grad_cache: Whether only one micro-batch's graph is in memory at a time.
    """

    micro_batches: int
    grad_cache: bool

    def videos_at_once(self, batch_size: int, world: int) -> int:
        """The most videos of which a process holds the graph at the same time."""
        return -(-batch_size // (self.micro_batches if self.grad_cache else world))


# Whether this process has memory for a step that is divided like this.
Fits = Callable[[Passes], bool]


def divide(
    method: Method, settings: TrainingSettings, folder: storage.Location | None = None, fits: Fits | None = None
) -> Passes:
    """How this training divides its batches. All processes of the group call this and get the same answer.

    On a GPU a pass is tried with random data. A CPU has memory for any batch, as far as this function knows.

    Args:
        method: The method, on the device to train on.
        settings: ``micro_batches`` is a number or ``auto``.
        folder: Where the answer for ``auto`` is kept for a resumed training. None keeps nothing.
        fits: Tells whether a step fits. None tries a pass on a GPU.

    Raises:
        TrainingError: The batch does not fit as set, or however it is divided. Or the number of processes does not
            divide the passes of the training that is resumed.
    """
    world = rank_and_world()[1]
    fits = fits or (lambda passes: fits_device(method, settings, passes))
    if settings.micro_batches != "auto":
        passes = Passes(settings.micro_batches, settings.grad_cache)
        if not _everywhere(fits(passes), method):
            raise _too_large(method, settings, passes, _least(method, settings, fits))
        return passes
    kept = _kept(folder)
    if kept is not None:
        check_workers(world, kept.micro_batches)
        return kept
    least = _least(method, settings, fits)
    if least is None:
        raise _too_large(method, settings, next(candidates(settings, world)), None)
    if rank_and_world()[0] == 0:
        logger.info(
            "micro_batches: auto is %d: %d pass%s of %d videos per process%s",
            least.micro_batches,
            least.micro_batches // world,
            "" if least.micro_batches == world else "es",
            -(-settings.batch_size // least.micro_batches),
            " with GradCache" if least.grad_cache else "",
        )
        if folder is not None:
            write_record(storage.join(folder, FILE), least)
    return least


def candidates(settings: TrainingSettings, world: int) -> Iterator[Passes]:
    """The divisions of a batch that ``auto`` tries, the fastest first: 1, 2, 4, ... passes per process."""
    passes = 1
    while passes * world <= max(settings.batch_size, world):
        yield Passes(passes * world, settings.grad_cache or passes > 1)
        passes *= 2


def fits_device(method: Method, settings: TrainingSettings, passes: Passes) -> bool:
    """Whether a step fits into the memory of this process's GPU next to optimiser state and batches. True on a CPU."""
    device = next(method.parameters()).device
    if device.type != "cuda":
        return True
    world, side = rank_and_world()[1], method.spec.image_size
    videos = passes.videos_at_once(settings.batch_size, world)
    local = -(-settings.batch_size // world)
    state = STATE_BYTES * sum(parameter.numel() for parameter in method.trainable().values())
    batches = BUFFERS * local * method.frames * 3 * side * side
    trial = StepGradients(method, replace(settings, cache_frozen=False), seed=0)
    training = method.training
    method.train()
    try:
        kept = torch.empty(state + batches, dtype=torch.uint8, device=device)
        trial.probe(videos, videos * settings.captions_per_video)
        del kept
    except torch.OutOfMemoryError:
        return False
    finally:
        method.train(training)
        method.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
    return True


def _least(method: Method, settings: TrainingSettings, fits: Fits) -> Passes | None:
    for passes in candidates(settings, rank_and_world()[1]):
        if _everywhere(fits(passes), method):
            return passes
    return None


def _everywhere(here: bool, method: Method) -> bool:
    """Whether all processes say so."""
    world = rank_and_world()[1]
    answer = torch.tensor([here], device=next(method.parameters()).device, dtype=torch.uint8)
    return bool(gather(answer, [1] * world).all())


def _kept(folder: storage.Location | None) -> Passes | None:
    """The division that an earlier attempt of this training chose. Rank 0 reads it for all."""
    rank, world = rank_and_world()
    found: list[Passes | None] = [None]
    if folder is not None and rank == 0 and storage.exists(path := storage.join(folder, FILE)):
        found = [read_record(path, Passes, error=TrainingError)]
    if world > 1:
        dist.broadcast_object_list(found, src=0)
    return found[0]


def _too_large(method: Method, settings: TrainingSettings, passes: Passes, least: Passes | None) -> TrainingError:
    world = rank_and_world()[1]
    device = next(method.parameters()).device
    memory = ""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        memory = f" of {properties.name} ({properties.total_memory / 2**30:.0f} GiB)"
    cure = "use a smaller training.batch_size, checkpoint_activations: true, or precision: bfloat16"
    if least:
        cure = f"set training.micro_batches: auto, or {least.micro_batches} with grad_cache: true"
    return TrainingError(
        "a step does not fit into the memory" + memory,
        where="training.micro_batches",
        found=settings.micro_batches,
        expected=f"room for {passes.videos_at_once(settings.batch_size, world)} videos at once",
        cure=cure,
    )
