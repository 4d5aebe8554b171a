"""Shards: which videos go together, and how one shard is made."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from components import storage
from components.frames import schema
from components.frames.writing import ShardWriter, shard_hash, shard_writer
from components.ingest import sources
from components.ingest.isolation import DecodeProcess, Outcome
from components.ingest.records import CHANGED, DoneShard, Identity, LedgerRow, Origin, Settings, Shard, WindowRow
from components.ingest.reuse import EarlierRows
from components.ingest.spool import Spool
from components.manifest import SPLITS, Manifest
from components.provenance import sha256_file
from components.video import Video, window_id

# Called after every video, with its ledger row and whether its frames were copied from an earlier run.
LogVideo = Callable[[LedgerRow, bool], None]


def plan_shards(manifest: Manifest, shard_videos: int) -> list[Shard]:
    """Groups consecutive videos of one split into shards, in manifest order, whatever the number of workers is.

    Videos that show another one backwards are in no shard.
    """
    filmed = manifest.filmed()
    groups = [
        tuple(videos[start : start + shard_videos])
        for videos in ([video for video in filmed if video.split == split] for split in SPLITS)
        for start in range(0, len(videos), shard_videos)
    ]
    return [Shard(number, videos) for number, videos in enumerate(groups)]


def make_shard(
    shard: Shard,
    root: Path,
    folder: Path,
    settings: Settings,
    process: DecodeProcess,
    earlier: EarlierRows | None = None,
    log_video: LogVideo = lambda row, reused: None,
) -> DoneShard:
    """Decodes the videos of a shard, one after the other, and writes them as ``folder/shard-<number>.parquet``.

    The windows of a video follow it.

    Args:
        shard: Which videos.
        root: The project's folder.
        folder: Where to write the shard.
        settings: How videos become frames.
        process: A decoding process with these settings. It stays open.
        earlier: Rows that need not be decoded again.
        log_video: Called after every video.

    Raises:
        DataError: The decoding process does not start. A video never raises.
    """
    start = time.monotonic()
    ledger: list[LedgerRow] = []
    origins: list[Origin] = []
    windows: list[WindowRow] = []
    tried = 0
    file = folder / schema.shard_name(shard.number)
    cuts, per_group = settings.recipe.windows is not None, settings.row_group_videos
    waiting = Spool(folder) if cuts else contextlib.nullcontext()
    uncut = shard_hash(per_group) if cuts else contextlib.nullcontext((None, None))
    with waiting as spool, uncut as (plain, digest), shard_writer(file, per_group) as writer:
        for video in shard.videos:
            outcome, origin, reused = _frames_of(video, root, process, earlier, spool)
            ledger.append(_ledger_row(video, outcome, settings.decoder, shard.number, writer.rows))
            if outcome.reason is None:
                row = {**outcome.row, "video_id": video.video_id}
                writer.add(row)
                if plain is not None:
                    plain.add(row)
                windows += _add_windows(video, outcome, writer)
            origins.append(origin)
            tried += not reused
            log_video(ledger[-1], reused)
    found = file.stat()
    return DoneShard(
        number=shard.number,
        sha256=sha256_file(file),
        bytes=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ledger=ledger,
        origins=origins,
        tried=tried,
        limits=settings.limits(),
        seconds=round(time.monotonic() - start, 3),
        windows=windows,
        source_sha256=digest() if windows and digest is not None else None,
    )


def _add_windows(video: Video, outcome: Outcome, writer: ShardWriter) -> list[WindowRow]:
    added = []
    for window in outcome.windows:
        span = window.start_seconds, window.end_seconds
        added.append(WindowRow(video.video_id, *span, len(window.row["frames"]), writer.rows))
        writer.add({**window.row, "video_id": window_id(video.video_id, *span)})
    return added


def _frames_of(
    video: Video, root: Path, process: DecodeProcess, earlier: EarlierRows | None, spool: Spool | None
) -> tuple[Outcome, Origin, bool]:
    """Returns a video's frames, their origin, and whether an earlier run decoded them."""
    location = storage.resolve(root, video.uri)
    identity, sha256 = None, None
    try:
        # Looked up before the file is read: a file that changes meanwhile has another identity afterwards.
        identity = sources.identity(location)
        if earlier is not None and identity is not None and (found := earlier.by_identity(video, identity)):
            return found.outcome, _origin(video, identity, found.sha256), True
        with sources.local_file(location) as path:
            sha256 = process.content_hash(path) if earlier is not None else None
            if earlier is not None and sha256 is not None and (found := earlier.by_content(video, sha256)):
                return found.outcome, _origin(video, identity, sha256), True
            outcome = process.decode(path, video.start_seconds, video.end_seconds, spool)
            sha256 = outcome.row.get("content_sha256") or sha256 or process.content_hash(path)
        if sources.identity(location) != identity:
            outcome, identity, sha256 = Outcome(CHANGED), None, None
    except sources.FetchError as failure:
        outcome = Outcome(failure.reason, failure.detail)
    return outcome, _origin(video, identity, sha256), False


def _origin(video: Video, identity: Identity | None, sha256: str | None) -> Origin:
    return Origin(video.uri, video.start_seconds, video.end_seconds, identity, sha256)


def _ledger_row(video: Video, outcome: Outcome, decoder: str, shard: int, row: int) -> LedgerRow:
    decoded = outcome.reason is None
    return LedgerRow(
        video_id=video.video_id,
        split=video.split,
        status=schema.DECODED if decoded else schema.FAILED,
        reason=outcome.reason or "",
        detail=outcome.detail,
        decoder=outcome.row.get("decoder", decoder),
        corrupt_frames=outcome.row.get("corrupt_frames"),
        frames=len(outcome.row.get("frames", ())),
        shard=shard,
        row=row if decoded else None,
    )


def flat_ledger(records: Sequence[DoneShard], manifest: Manifest) -> list[LedgerRow]:
    """Returns the ledger rows of all videos in manifest order. A reversal shares the place of the video it shows."""
    rows = {row.video_id: row for done in records for row in done.ledger}
    for window in (window for done in records for window in done.windows):
        name = window_id(window.video_id, window.start_seconds, window.end_seconds)
        rows[name] = replace(rows[window.video_id], frames=window.frames, row=window.row)
    return [replace(rows[video.reverse_of or video.video_id], video_id=video.video_id) for video in manifest.videos]


def with_windows(manifest: Manifest, records: Sequence[DoneShard]) -> Manifest:
    """Adds the windows of each video after it, in the order of their starts.

    Raises:
        DataError: A video of the collection has the id of a window.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for window in (window for done in records for window in done.windows):
        found.setdefault(window.video_id, []).append((window.start_seconds, window.end_seconds))
    if not found:
        return manifest
    videos: list[Video] = []
    for video in manifest.videos:
        videos.append(video)
        for span in sorted(found.get(video.video_id, ())):
            name = window_id(video.video_id, *span)
            videos.append(Video(name, video.uri, video.split, (), *span, window_of=video.video_id, facts=video.facts))
    whole = replace(manifest, videos=tuple(videos))
    whole.check()
    return whole
