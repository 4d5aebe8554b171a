"""Manifest to frame store, with Ray Data: one row of the data set is one shard, and one task makes it.

A task decodes its videos in a child process (:mod:`components.ingest.isolation`), writes the shard aside and renames
it into the working state. So a shard is complete or missing. If a worker or machine is lost, Ray Data repeats the task
as often as it takes. Names and bytes do not depend on which worker did what, or when. Ray Data's file writing gives
none of that: it chooses random names, and a crash leaves parts of files. A task returns a few numbers. Frames never
pass through the object store.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import storage
from components.benchmarks.reader import read_manifest
from components.cluster import RaySettings, quiet_data, ray_session, room
from components.errors import DataError, ReelTuneError
from components.frames import schema
from components.ingest import events, progress, reuse, sources
from components.ingest.decoders import DECODERS
from components.ingest.ends import logged_end, stoppable, storage_faults
from components.ingest.isolation import DecodeProcess, Recipe
from components.ingest.limits import WALL_FACTOR
from components.ingest.publish import check_failures, failure_lines, failures, publish, write_store
from components.ingest.records import DoneShard, Settings, Shard
from components.ingest.settings import FrameSettings
from components.ingest.shards import flat_ledger, make_shard, plan_shards, with_windows
from components.ingest.state import WorkingState
from components.ingest.windows import MOST_WINDOWS
from components.layout import Layout
from components.manifest import Manifest
from components.samecode import on_worker
from components.task import TaskSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What an ingest did.

    Args:
        task: The task's name.
        decoded: Videos with frames, in the whole store.
        failed: Ids of videos without frames, by reason.
        videos_made: Videos that this run tried. The frames of the others existed already.
        seconds: Wall clock in which all workers of this run decoded, without the start of Ray.
        bytes: Length of all shards.
        store: Folder or URI where the store was published.
        backwards: Videos that show the frames of another one backwards.
        windows: Windows of long videos, which are counted in none of these numbers.
        cut: Videos that have windows.
    """

    task: str
    decoded: int
    failed: Mapping[str, Sequence[str]]
    videos_made: int
    seconds: float
    bytes: int
    store: str
    backwards: int = 0
    windows: int = 0
    cut: int = 0

    def text(self) -> str:
        """Describes the run for a terminal: counts, speed, and each reason with its videos."""
        failed = sum(len(ids) for ids in self.failed.values())
        total = self.decoded + failed
        speed = f", {self.videos_made / self.seconds:.1f} videos per second" if self.videos_made else ""
        lines = [
            f"{self.task}: {self.decoded} of {total} videos decoded, {failed} failed; "
            f"{self.bytes / 1e6:.1f} MB in {self.store}",
            f"  this run: {self.videos_made} videos in {self.seconds:.1f} s{speed}; "
            f"{total - self.backwards - self.videos_made} reused from earlier runs",
        ]
        if self.backwards:
            lines.append(f"  {self.backwards} videos are others played backwards, and share their frames")
        if self.windows:
            lines.append(f"  videos longer than a window: {self.cut}, with {self.windows} windows")
        return "\n".join([*lines, *failure_lines(self.failed)])


def ingest(
    root: Path,
    task_name: str,
    task: TaskSettings,
    frames: FrameSettings,
    ray: RaySettings,
    *,
    overwrite: bool = False,
) -> Summary:
    """Decodes the videos that are not decoded yet, and publishes the store of one task.

    Ray starts only if there is a shard to make.

    Args:
        root: The project's folder, absolute. All machines of a cluster see it under this path.
        task_name: The task's key in params.yaml.
        task: The task's settings.
        frames: How videos become stored frames.
        ray: Size of the local cluster.
        overwrite: Whether to decode everything, whatever earlier runs made.

    Raises:
        ConfigError: Unknown benchmark, option or decoder.
        DataError: The annotations have a fault, a decoder does not load, a storage does not answer, or too many videos
            failed. In the last case nothing is published, and the ledger is in the working state.
        ReelTuneError: SIGINT or SIGTERM interrupted the run.
    """
    settings = read_settings(task, frames)
    manifest = read_manifest(task_name, task, root)
    state = WorkingState(root, manifest, settings)
    with storage_faults(state.task_folder), state.locked(), logged_end(state.task_folder, task_name):
        if overwrite:
            state.reset()
        with stoppable():
            records, tried, seconds = make_all(manifest, state, settings, ray)
        ledger, whole = flat_ledger(records, manifest), with_windows(manifest, records)
        with stoppable():
            write_store(state.store, whole, settings, records, flat_ledger(records, whole))
            where, few = state.store / schema.LEDGER, frames.max_failed_videos
            for note in check_failures(task_name, ledger, frames.max_failed_share, where, few):
                log.warning("%s", note)
            place = storage.join(storage.resolve(root, frames.store), task_name) if frames.store else None
            store = publish(state.store, Layout(root).frames(task_name), place)
            state.drop_others()
        summary = Summary(
            task=task_name,
            decoded=sum(row.status == schema.DECODED for row in ledger),
            failed=failures(ledger),
            videos_made=tried,
            backwards=len(manifest.videos) - len(manifest.filmed()),
            windows=len(whole.videos) - len(manifest.videos),
            cut=len({video.window_of for video in whole.videos if video.window_of is not None}),
            seconds=seconds,
            bytes=sum(done.bytes for done in records),
            store=store,
        )
        events.write_event(state.task_folder, events.Finished(summary.decoded, tried, store))
    return summary


def read_settings(task: TaskSettings, frames: FrameSettings) -> Settings:
    """Picks the settings in params.yaml that decide the bytes of a store.

    Raises:
        ConfigError: Unknown decoder.
    """
    decoder = DECODERS.target(frames.decoder, where="params.yaml frames.decoder")
    return Settings(
        recipe=Recipe(decoder, frames.sampling, task.frames, frames.size, frames.quality, frames.chroma, task.windows),
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
        The records of all shards, how many videos were tried, and the wall clock of decoding in seconds.
    """
    shards = plan_shards(manifest, settings.shard_videos)
    found = _finished(shards, state)
    finished = {number: done for number, done in found.items() if done.is_complete}
    todo = [shard for shard in shards if shard.number not in finished]
    counts = progress.VideoCounts(len(manifest.filmed()), sum(len(done.ledger) for done in finished.values()))
    counts.failed = Counter(row.reason for done in finished.values() for row in done.ledger if row.reason)
    shutil.rmtree(state.folder / "progress", ignore_errors=True)
    progress.log_start(state.task_folder, state.folder.name, counts)
    seconds = 0.0
    if todo:
        log.info("%s: %d of %d shards to make", manifest.task, len(todo), len(shards))
        with settings.process() as trial:
            trial.start()  # a decoder that does not load should fail before Ray starts
        state.set_aside(todo)
        known = reuse.write_index(state.index, state.earlier(), settings.limits())
        with ray_session(ray_settings), stoppable():
            events.write_event(state.task_folder, events.Decoding(counts.total - counts.found))
            folder, cpus = state.folder / "progress", functools.partial(room, "CPU")
            monitor = progress.Monitor(state.task_folder, folder, counts, manifest.task, cpus)
            seconds = decode_shards(todo, state, settings, monitor, reuses=known > 0)
        finished.update((shard.number, _expect(state, shard)) for shard in todo)
    tried = sum(finished[shard.number].tried for shard in todo)
    return [finished[shard.number] for shard in shards], tried, seconds


def _finished(shards: Sequence[Shard], state: WorkingState) -> dict[int, DoneShard]:
    places = (storage.resolve(state.root, video.uri) for shard in shards for video in shard.videos)
    known = sources.identities(places)
    return {shard.number: done for shard in shards if (done := state.done(shard, known)) is not None}


def decode_shards(
    shards: Sequence[Shard], state: WorkingState, settings: Settings, monitor: progress.Monitor, *, reuses: bool
) -> float:
    """Makes shards on the connected Ray cluster, one process per core.

    Args:
        shards: Which shards.
        state: Where they go.
        settings: How videos become frames.
        monitor: Logs each finished shard.
        reuses: Whether earlier runs have rows to copy.

    Returns:
        Wall clock in seconds.
    """
    start = time.monotonic()
    with monitor:
        for row in _made(shards, state, settings, reuses):
            if row["error"]:
                raise ReelTuneError(row["error"])
            monitor.shard_done(row["number"], row["seconds"])
    return time.monotonic() - start


def _made(shards: Sequence[Shard], state: WorkingState, settings: Settings, reuses: bool) -> Iterator[dict[str, Any]]:
    import ray.data

    # A shard in which every video hangs twice is slow, not stuck. The time limit holds for each window.
    windows = 1 if settings.recipe.windows is None else MOST_WINDOWS
    slowest = settings.shard_videos * settings.time_limit_seconds * WALL_FACTOR * windows
    quiet_data().execution_no_progress_timeout_s = max(1800, round(2 * slowest))
    rows = [shard.to_row() for shard in shards]
    task = functools.partial(on_worker(_shard_task), state=state, settings=settings, reuses=reuses)
    yield from ray.data.from_items(rows, override_num_blocks=len(rows)).map(task, num_cpus=1).iter_rows()


def _shard_task(row: dict[str, Any], state: WorkingState, settings: Settings, reuses: bool) -> dict[str, Any]:
    """Makes a shard. Ray would wrap an error into a hundred lines of its own, so the error is part of the answer."""
    shard = Shard.from_row(row)
    try:
        with storage_faults(state.folder):
            done = _make(shard, state, settings, reuses)
    except ReelTuneError as error:
        return {"number": shard.number, "seconds": 0.0, "error": str(error)}
    return {"number": done.number, "seconds": done.seconds, "error": ""}


def _make(shard: Shard, state: WorkingState, settings: Settings, reuses: bool) -> DoneShard:
    done = state.done(shard)
    # Ray repeats a task if its answer was lost with its machine.
    if done is None or not done.is_complete:
        known = reuse.EarlierRows(state.index, settings.recipe.sampling) if reuses else contextlib.nullcontext()
        with known as earlier, progress.ShardLog(state.progress_file(shard.number)) as log_video:
            done = make_shard(shard, state.root, state.store, settings, _kept_process(settings), earlier, log_video)
        state.finish(done)
    return done


@functools.lru_cache(maxsize=1)
def _kept_process(settings: Settings) -> DecodeProcess:
    """Returns this worker's decoding process. It is kept for all shards, and ends with the worker."""
    return settings.process()


def _expect(state: WorkingState, shard: Shard) -> DoneShard:
    if (done := state.made(shard)) is None:
        raise DataError(
            "a shard is not what its task wrote",
            where=state.store / schema.shard_name(shard.number),
            cure="make sure that all machines share this folder, and run it again",
        )
    return done
