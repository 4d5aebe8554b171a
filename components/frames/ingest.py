"""Manifest to frame store, with Ray Data: one row of the data set is one shard, one task makes it.

A task decodes its videos in a child process (:mod:`components.frames.isolation`), writes the shard aside and renames
it into the working state. So a shard is there whole or not at all, a lost worker's task can run again, and names and
bytes do not depend on who did what when. Ray Data's own file writing gives none of that: its names are random and a
crash leaves parts behind. What a task returns is a few numbers; frames never pass through the object store.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from components import config, storage
from components.benchmarks.base import SPLITS, Manifest, first_few
from components.benchmarks.reader import read_manifest
from components.cluster import ray_session
from components.errors import DataError
from components.frames import schema
from components.frames.decoders import DECODERS
from components.frames.isolation import DecodeProcess, Recipe
from components.frames.shards import DoneShard, Settings, Shard, flat_ledger, make_shard, plan_shards
from components.frames.state import WorkingState, library_versions
from components.frames.store import write_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What an ingest did.

    Args:
        task: name of the task.
        decoded: videos with frames, in the whole store.
        failed: ids of videos without frames, under each reason.
        videos_made: videos that this run tried, the others were found finished.
        seconds: wall clock of this run's decoding by all workers, without the start of Ray.
        bytes: length of all shards.
        store: where the store was published.
    """

    task: str
    decoded: int
    failed: dict[str, list[str]]
    videos_made: int
    seconds: float
    bytes: int
    store: Path

    def text(self) -> str:
        """For a terminal: counts, speed, and each reason with the videos it befell."""
        failed = sum(len(ids) for ids in self.failed.values())
        total = self.decoded + failed
        speed = f", {self.videos_made / self.seconds:.1f} videos per second" if self.videos_made else ""
        lines = [
            f"{self.task}: {self.decoded} of {total} videos decoded, {failed} failed; "
            f"{self.bytes / 1e6:.1f} MB in {self.store}",
            f"  this run: {self.videos_made} videos in {self.seconds:.1f} s{speed}; "
            f"{total - self.videos_made} found finished",
        ]
        return "\n".join([*lines, *failure_lines(self.failed)])


def failure_lines(failed: dict[str, list[str]]) -> list[str]:
    """A line per reason: how many videos, what it means, the first few ids."""
    return [f"  {reason} {len(ids)} ({schema.REASONS[reason]}): {first_few(ids)}" for reason, ids in failed.items()]


def store_folder(root: Path, task_name: str) -> Path:
    """Where the store of a task is published."""
    return root / "outputs" / "frames" / task_name


def ingest(root: Path, task_name: str, params: config.Params) -> Summary:
    """Decodes what is not decoded yet and publishes the store of one task.

    Ray is started only if there is something to decode.

    Args:
        root: the project's folder, absolute.
        task_name: key in params.yaml.
        params: all settings.

    Raises:
        ConfigError: unknown task, benchmark, option or decoder.
        DataError: unsound annotations; a decoder that does not load; or too many videos failed: then nothing is
            published, and the ledger lies in the working state.
    """
    task = params.task(task_name)
    settings = read_settings(task, params.frames)
    manifest = read_manifest(task_name, task, root)
    state = WorkingState(root, manifest, settings)
    shards = plan_shards(manifest, settings.shard_videos)
    with state.locked():
        finished = {shard.number: done for shard in shards if (done := state.done(shard)) is not None}
        todo = [shard for shard in shards if shard.number not in finished]
        seconds = 0.0
        if todo:
            log.info("%s: %d of %d shards to decode", task_name, len(todo), len(shards))
            with DecodeProcess(settings.recipe, settings.time_limit_seconds) as trial:
                trial.start()  # a decoder that does not load is better known before Ray is there
            with ray_session(root, params.ray):
                seconds = decode_shards(todo, state, settings)
            finished.update((shard.number, _expect(state, shard)) for shard in todo)
        records = [finished[shard.number] for shard in shards]
        ledger = flat_ledger(records, manifest)
        write_store(state.store, manifest, settings, records, ledger)
        check_failures(task_name, ledger, params.frames.max_failed_share, state.store / schema.LEDGER)
        storage.publish_folder(state.store, store_folder(root, task_name))
        state.drop_others()
    return Summary(
        task=task_name,
        decoded=sum(row["status"] == schema.DECODED for row in ledger),
        failed=failures(ledger),
        videos_made=sum(len(shard.videos) for shard in todo),
        seconds=seconds,
        bytes=sum(done.bytes for done in records),
        store=store_folder(root, task_name),
    )


def read_settings(task: config.Task, frames: config.Frames) -> Settings:
    """What of params.yaml decides about the bytes of a store.

    Raises:
        ConfigError: unknown decoder.
    """
    decoder = DECODERS.target(frames.decoder, where="params.yaml frames.decoder")
    return Settings(
        recipe=Recipe(decoder, frames.sampling, task.frames, frames.size, frames.quality),
        decoder=frames.decoder,
        shard_videos=frames.shard_videos,
        row_group_videos=frames.row_group_videos,
        time_limit_seconds=frames.time_limit_seconds,
        memory_limit_mib=frames.memory_limit_mib,
    )


def decode_shards(shards: Sequence[Shard], state: WorkingState, settings: Settings) -> float:
    """Makes shards on the connected Ray cluster, one process per core.

    Returns:
        Wall clock in seconds.
    """
    start = time.monotonic()
    for count, row in enumerate(_made(shards, state, settings), start=1):
        log.info(
            "shard %d (%d of %d): %d videos, %d failed, %.1f s",
            *(row["number"], count, len(shards), row["videos"], row["failed"], row["seconds"]),
        )
    return time.monotonic() - start


def _made(shards: Sequence[Shard], state: WorkingState, settings: Settings) -> Iterator[dict[str, Any]]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A shard all of whose videos hang is slow, not stuck.
    slowest = settings.shard_videos * settings.time_limit_seconds
    context.execution_no_progress_timeout_s = max(1800, round(2 * slowest))
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [shard.to_row() for shard in shards]
    task = functools.partial(_shard_task, state=state, settings=settings)
    yield from ray.data.from_items(rows, override_num_blocks=len(rows)).map(task, num_cpus=1).iter_rows()


def _shard_task(row: dict[str, Any], state: WorkingState, settings: Settings) -> dict[str, Any]:
    done = make_shard(Shard.from_row(row), state.root, state.store, settings)
    state.finish(done)
    failed = sum(entry["status"] == schema.FAILED for entry in done.ledger)
    return {"number": done.number, "videos": len(done.ledger), "failed": failed, "seconds": done.seconds}


def _expect(state: WorkingState, shard: Shard) -> DoneShard:
    done = state.done(shard)
    if done is None:
        raise DataError(
            "a shard is not what its task wrote",
            where=state.store / schema.shard_name(shard.number),
            cure="videos changed during the ingest, or not all machines share this folder; run it again",
        )
    return done


def write_store(
    folder: Path, manifest: Manifest, settings: Settings, records: list[DoneShard], ledger: list[dict[str, Any]]
) -> None:
    """Writes manifest, ledger and card beside the shards."""
    write_table(folder / schema.MANIFEST, manifest.to_table())
    write_table(folder / schema.LEDGER, pa.Table.from_pylist(ledger, schema=schema.LEDGER_SCHEMA))
    content = json.dumps([manifest.fingerprint(), settings.to_dict(), ledger, [done.sha256 for done in records]])
    card = {
        "format": schema.FORMAT,
        "task": manifest.task,
        "benchmark": manifest.protocol.benchmark,
        "fingerprint": hashlib.sha256(content.encode()).hexdigest(),
        "settings": settings.to_dict(),
        "frames": "JPEG 4:4:4, RGB, PIL bicubic to the short side, uncropped, long side cut to whole pixels",
        "videos": {split: _counts(ledger, split) for split in SPLITS},
        "failed": {reason: len(ids) for reason, ids in failures(ledger).items()},
        "versions": library_versions(),
        "shards": [
            {
                "name": schema.shard_name(done.number),
                "bytes": done.bytes,
                "sha256": done.sha256,
                "videos": sum(row["status"] == schema.DECODED for row in done.ledger),
            }
            for done in records
        ],
    }
    storage.write_bytes(folder / schema.CARD, (json.dumps(card, indent=1) + "\n").encode())


def failures(ledger: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Ids of failed videos under each reason that occurs."""
    found: dict[str, list[str]] = {}
    for row in ledger:
        if row["status"] == schema.FAILED:
            found.setdefault(row["reason"], []).append(row["video_id"])
    return dict(sorted(found.items()))


def check_failures(task_name: str, ledger: list[dict[str, Any]], most: float, where: Path) -> None:
    """Refuses a store in which too many videos failed, or all of a split that has any.

    Raises:
        DataError: names share, reasons and the ledger's path.
    """
    failed = failures(ledger)
    share = sum(len(ids) for ids in failed.values()) / len(ledger)
    counts = {split: _counts(ledger, split) for split in SPLITS}
    empty = [split for split in SPLITS if counts[split][schema.FAILED] and not counts[split][schema.DECODED]]
    if share <= most and not empty:
        return
    what = "no video of a split could be decoded" if empty else "too many videos failed"
    raise DataError(
        "\n".join([f"{what}, nothing is published", *failure_lines(failed)]),
        where=f"task {task_name}",
        found=", ".join(empty) if empty else f"{share:.1%}",
        expected=None if empty else f"at most {most:.1%} (frames.max_failed_share)",
        cure=f"every video's reason is in {where}; after a cure outside of the videos delete {where.parent.parent}",
    )


def _counts(ledger: list[dict[str, Any]], split: str) -> dict[str, int]:
    statuses = [row["status"] for row in ledger if row["split"] == split]
    return {status: statuses.count(status) for status in (schema.DECODED, schema.FAILED)}
