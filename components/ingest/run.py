"""Manifest to frame store, with Ray Data: one row of the data set is one shard, one task makes it.

A task decodes its videos in a child process (:mod:`components.ingest.isolation`), writes the shard aside and renames
it into the working state. So a shard is there whole or not at all, a lost worker's or machine's task runs again (Ray
Data repeats it without end), and names and bytes do not depend on who did what when. Ray Data's own file writing gives
none of that: its names are random and a crash leaves parts behind. What a task returns is a few numbers; frames never
pass through the object store.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from components import storage
from components.benchmarks.reader import read_manifest
from components.cluster import RaySettings, ray_session
from components.errors import DataError, ReelTuneError
from components.frames import schema
from components.ingest import progress, reuse, sources
from components.ingest.decoders import DECODERS
from components.ingest.isolation import DecodeProcess, Recipe
from components.ingest.publish import check_failures, failure_lines, failures, publish, write_store
from components.ingest.settings import FrameSettings
from components.ingest.shards import DoneShard, Settings, Shard, flat_ledger, make_shard, plan_shards
from components.ingest.state import WorkingState
from components.layout import Layout
from components.manifest import Manifest
from components.task import TaskSettings

log = logging.getLogger(__name__)

Identities = Mapping[str, sources.Identity | None]


@dataclass(frozen=True)
class Summary:
    """What an ingest did.

    Args:
        task: name of the task.
        decoded: videos with frames, in the whole store.
        failed: ids of videos without frames, under each reason.
        videos_made: videos that this run tried, the others' frames were there already.
        seconds: wall clock of this run's decoding by all workers, without the start of Ray.
        bytes: length of all shards.
        store: folder or URI where the store was published.
    """

    task: str
    decoded: int
    failed: dict[str, list[str]]
    videos_made: int
    seconds: float
    bytes: int
    store: str

    def text(self) -> str:
        """For a terminal: counts, speed, and each reason with the videos it befell."""
        failed = sum(len(ids) for ids in self.failed.values())
        total = self.decoded + failed
        speed = f", {self.videos_made / self.seconds:.1f} videos per second" if self.videos_made else ""
        lines = [
            f"{self.task}: {self.decoded} of {total} videos decoded, {failed} failed; "
            f"{self.bytes / 1e6:.1f} MB in {self.store}",
            f"  this run: {self.videos_made} videos in {self.seconds:.1f} s{speed}; "
            f"{total - self.videos_made} reused from earlier runs",
        ]
        return "\n".join([*lines, *failure_lines(self.failed)])


def store_folder(root: Path, task_name: str) -> Path:
    """Where the store of a task is published, or the card of one that is kept elsewhere."""
    return Layout(root).frames(task_name)


def ingest(
    root: Path,
    task_name: str,
    task: TaskSettings,
    frames: FrameSettings,
    ray: RaySettings,
    *,
    overwrite: bool = False,
) -> Summary:
    """Decodes what is not decoded yet and publishes the store of one task.

    Ray is started only if there is a shard to make.

    Args:
        root: the project's folder, absolute; all machines of a cluster see it under this path.
        task_name: key in params.yaml.
        task: its settings.
        frames: how videos become stored frames.
        ray: the local cluster.
        overwrite: whether to decode everything, whatever earlier runs made.

    Raises:
        ConfigError: unknown task, benchmark, option or decoder.
        DataError: unsound annotations; a decoder that does not load; a storage that does not answer; or too many
            videos failed: then nothing is published, and the ledger lies in the working state.
        ReelTuneError: interrupted by SIGINT or SIGTERM.
    """
    settings = read_settings(task, frames)
    manifest = read_manifest(task_name, task, root)
    state = WorkingState(root, manifest, settings)
    with state.locked(), _logged(state.task_folder, task_name):
        if overwrite:
            state.start_anew()
        with _stoppable():
            records, tried, seconds = make_all(manifest, state, settings, ray)
        ledger = flat_ledger(records, manifest)
        with _stoppable():
            write_store(state.store, manifest, settings, records, ledger)
            check_failures(task_name, ledger, frames.max_failed_share, state.store / schema.LEDGER)
            place = storage.join(storage.resolve(root, frames.store), task_name) if frames.store else None
            store = publish(state.store, store_folder(root, task_name), place)
            state.drop_others()
        summary = Summary(
            task=task_name,
            decoded=sum(row["status"] == schema.DECODED for row in ledger),
            failed=failures(ledger),
            videos_made=tried,
            seconds=seconds,
            bytes=sum(done.bytes for done in records),
            store=store,
        )
        progress.write_event(state.task_folder, "finished", decoded=summary.decoded, tried=tried, store=store)
    return summary


def read_settings(task: TaskSettings, frames: FrameSettings) -> Settings:
    """What of params.yaml decides about the bytes of a store.

    Raises:
        ConfigError: unknown decoder.
    """
    decoder = DECODERS.target(frames.decoder, where="params.yaml frames.decoder")
    return Settings(
        recipe=Recipe(decoder, frames.sampling, task.frames, frames.size, frames.quality, frames.chroma),
        decoder=frames.decoder,
        shard_videos=frames.shard_videos,
        row_group_videos=frames.row_group_videos,
        time_limit_seconds=frames.time_limit_seconds,
        memory_limit_mib=frames.memory_limit_mib,
    )


def make_all(
    manifest: Manifest, state: WorkingState, settings: Settings, ray_settings: RaySettings
) -> tuple[list[DoneShard], int, float]:
    """Makes the shards that are not finished.

    Returns:
        Records of all shards, how many videos were tried, and the wall clock of decoding in seconds.
    """
    shards = plan_shards(manifest, settings.shard_videos)
    found = _finished(shards, state)
    finished = {number: done for number, done in found.items() if done.is_complete}
    todo = [shard for shard in shards if shard.number not in finished]
    count = progress.Count(len(manifest.videos), sum(len(done.ledger) for done in finished.values()))
    count.failed = Counter(row["reason"] for done in finished.values() for row in done.ledger if row["reason"])
    shutil.rmtree(state.folder / "progress", ignore_errors=True)
    progress.started(state.task_folder, state.folder.name, count)
    seconds = 0.0
    if todo:
        log.info("%s: %d of %d shards to make", manifest.task, len(todo), len(shards))
        with settings.process() as trial:
            trial.start()  # a decoder that does not load is better known before Ray is there
        state.set_aside(todo)
        known = reuse.write_index(state.index, state.earlier(), settings.limits())
        with ray_session(state.root, ray_settings), _stoppable():
            progress.write_event(state.task_folder, "decoding", videos=count.total - count.found)
            watch = progress.Watch(state.task_folder, state.folder / "progress", count, manifest.task)
            seconds = decode_shards(todo, state, settings, watch, reuses=known > 0)
        made = _finished(todo, state)
        finished.update((shard.number, _expect(state, shard, made.get(shard.number))) for shard in todo)
    tried = sum(finished[shard.number].tried for shard in todo)
    return [finished[shard.number] for shard in shards], tried, seconds


def _finished(shards: Sequence[Shard], state: WorkingState) -> dict[int, DoneShard]:
    places = (storage.resolve(state.root, video.uri) for shard in shards for video in shard.videos)
    known = sources.identities(places)
    return {shard.number: done for shard in shards if (done := state.done(shard, known)) is not None}


def decode_shards(
    shards: Sequence[Shard], state: WorkingState, settings: Settings, watch: progress.Watch, *, reuses: bool
) -> float:
    """Makes shards on the connected Ray cluster, one process per core.

    Returns:
        Wall clock in seconds.
    """
    start = time.monotonic()
    with watch:
        for row in _made(shards, state, settings, reuses):
            watch.shard_done(row["number"], row["seconds"])
    return time.monotonic() - start


def _made(shards: Sequence[Shard], state: WorkingState, settings: Settings, reuses: bool) -> Iterator[dict[str, Any]]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A shard all of whose videos hang is slow, not stuck.
    slowest = settings.shard_videos * settings.time_limit_seconds
    context.execution_no_progress_timeout_s = max(1800, round(2 * slowest))
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [shard.to_row() for shard in shards]
    task = functools.partial(_shard_task, state=state, settings=settings, reuses=reuses)
    yield from ray.data.from_items(rows, override_num_blocks=len(rows)).map(task, num_cpus=1).iter_rows()


def _shard_task(row: dict[str, Any], state: WorkingState, settings: Settings, reuses: bool) -> dict[str, Any]:
    shard = Shard.from_row(row)
    done = state.done(shard)
    # Ray repeats a task whose answer was lost with its machine.
    if done is None or not done.is_complete:
        earlier = reuse.Earlier(state.index, settings.recipe.sampling) if reuses else None
        with progress.Notes(state.progress_file(shard.number)) as note:
            done = make_shard(shard, state.root, state.store, settings, _kept_process(settings), earlier, note)
        state.finish(done)
    return {"number": done.number, "seconds": done.seconds}


@functools.lru_cache(maxsize=1)
def _kept_process(settings: Settings) -> DecodeProcess:
    """Of this worker process, from shard to shard: it ends with the worker, which serves one run only."""
    return settings.process()


def _expect(state: WorkingState, shard: Shard, done: DoneShard | None) -> DoneShard:
    if done is None:
        raise DataError(
            "a shard is not what its task wrote",
            where=state.store / schema.shard_name(shard.number),
            cure="videos changed during the ingest, or not all machines share this folder; run it again",
        )
    return done


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGINT and SIGTERM end the block by KeyboardInterrupt.

    Ray sets handlers of its own, and turns what a handler raises into KeyboardInterrupt where it waits itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _logged(task_folder: Path, task_name: str) -> Iterator[None]:
    """Logs how a run ends; an interrupted one says how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        name = str(stop) or "a signal"
        progress.write_event(task_folder, "interrupted", signal=name)
        raise ReelTuneError(
            f"interrupted by {name}; finished shards are kept",
            where=f"task {task_name}",
            cure="the same command goes on from there",
        ) from None
    except Exception as error:
        progress.write_event(task_folder, "failed", error=str(error))
        raise
