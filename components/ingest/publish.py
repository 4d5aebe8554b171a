"""From finished shards to a published store: manifest, ledger and card, on a disk or at a URI."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from components import storage
from components.errors import DataError
from components.frames import schema
from components.frames.card import StoreCard, StoredShard, StoreSettings, read_card
from components.frames.writing import write_table
from components.ingest.records import DoneShard, LedgerRow, Settings
from components.ingest.state import library_versions
from components.manifest import SPLITS, Manifest, first_few
from components.provenance import sha256_file
from components.records import read_tree

UPLOADS = 8  # at a time

# Names of the files of a store that is kept elsewhere. Nothing else at that place is touched.
OURS = re.compile(r"(shard-\d{5,}|manifest|ledger)-[0-9a-f]{16}\.parquet")


def write_store(
    folder: Path, manifest: Manifest, settings: Settings, records: Sequence[DoneShard], ledger: Sequence[LedgerRow]
) -> None:
    """Writes manifest, ledger and card next to the shards."""
    rows, columns = [asdict(row) for row in ledger], schema.LEDGER_SCHEMA
    for column in (schema.LEDGER_WITH_REVERSALS.field("reverse_of"), schema.WINDOW_OF):
        named = [getattr(video, column.name) for video in manifest.videos]
        if any(named):
            rows = [{**row, column.name: name} for row, name in zip(rows, named, strict=True)]
            columns = columns.append(column)
    write_table(folder / schema.MANIFEST, manifest.to_table())
    write_table(folder / schema.LEDGER, pa.Table.from_pylist(rows, schema=columns))
    fingerprint = _hash(manifest, settings.to_dict(), rows, [done.sha256 for done in records])
    training = _training_fingerprint(manifest, settings, rows, records)
    windows = [video for video in manifest.videos if video.window_of is not None]
    ledger = [row for row, video in zip(ledger, manifest.videos, strict=True) if video.window_of is None]
    videos = {split: counts(ledger, split) for split in SPLITS}
    decoded = sum(count[schema.DECODED] for count in videos.values())
    length = sum(done.bytes for done in records)
    card = StoreCard(
        format=schema.FORMAT,
        task=manifest.task,
        benchmark=manifest.protocol.benchmark,
        fingerprint=fingerprint,
        settings=StoreSettings(**{**settings.to_dict(), "windows": settings.recipe.windows}),
        frames="JPEG, RGB, PIL bicubic to the short side, uncropped, long side cut to whole pixels",
        videos=videos,
        failed={reason: len(ids) for reason, ids in failures(ledger).items()},
        bytes=length,
        bytes_per_video=round(length / decoded) if decoded else 0,
        versions=library_versions(),
        shards=tuple(
            StoredShard(
                name=schema.shard_name(done.number),
                bytes=done.bytes,
                sha256=done.sha256,
                videos=sum(row.status == schema.DECODED for row in done.ledger) + len(done.windows),
            )
            for done in records
        ),
        windows={split: sum(v.split == split for v in windows) for split in SPLITS} if windows else None,
        training_fingerprint=None if training == fingerprint else training,
    )
    storage.write_bytes(folder / schema.CARD, card.to_json().encode())
    storage.write_bytes(folder / schema.TRAINING, _training_json(manifest, training or fingerprint))


def _hash(manifest: Manifest, settings: Mapping[str, Any], rows: Sequence[object], shards: Sequence[str]) -> str:
    content = json.dumps([manifest.fingerprint(), settings, rows, shards])
    return hashlib.sha256(content.encode()).hexdigest()


def _training_fingerprint(
    manifest: Manifest, settings: Settings, rows: Sequence[Mapping[str, Any]], records: Sequence[DoneShard]
) -> str | None:
    """The fingerprint of the same store without windows and facts.

    None if a record of an earlier release does not know the hash of its shard without windows.
    """
    if any(done.windows and done.source_sha256 is None for done in records):
        return None
    column = schema.WINDOW_OF.name
    kept = [{name: row[name] for name in row if name != column} for row in rows if row.get(column) is None]
    places = sorted({(row["shard"], row["row"]) for row in kept if row["row"] is not None})
    first = {shard: number for number, (shard, _) in reversed(list(enumerate(places)))}
    number_of = {place: number - first[place[0]] for number, place in enumerate(places)}
    plain = [{**row, "row": number_of.get((row["shard"], row["row"]))} for row in kept]
    decides = {name: value for name, value in settings.to_dict().items() if name != "windows"}
    return _hash(manifest.trained(), decides, plain, [done.source_sha256 or done.sha256 for done in records])


def _training_json(manifest: Manifest, fingerprint: str) -> bytes:
    """A small file that changes if training or evaluation would read something else. DVC compares it."""
    content = {"fingerprint": fingerprint}
    if moments := [[video.video_id, *map(asdict, video.moments)] for video in manifest.videos if video.moments]:
        content["moments"] = hashlib.sha256(json.dumps(moments).encode()).hexdigest()
    return json.dumps(content, indent=1).encode() + b"\n"


def publish(folder: Path, target: Path, elsewhere: str | None) -> str:
    """Publishes the store that :func:`write_store` completed.

    Without ``elsewhere``, ``target`` becomes a folder with all files of the store.

    With it, the files go there, and ``target`` becomes a folder with the card alone. Each file's name contains a part
    of its hash. So a file never changes, and one that is already there is not sent again. The card comes last. It
    contains this place as ``uri`` and the files' names as ``names``. Readers find the old store until the new card is
    there. Then the files that neither card names are deleted. ``target`` also has the file that DVC compares.

    Args:
        folder: A folder with shards, manifest, ledger and card.
        target: The local folder.
        elsewhere: Folder or URI for the files.

    Returns:
        Where the files are.

    Raises:
        DataError: The storage does not answer.
    """
    if elsewhere is None:
        storage.publish_folder(folder, target)
        return str(target)
    card = read_card(folder)
    hashes = {shard.name: shard.sha256 for shard in card.shards}
    hashes |= {name: sha256_file(folder / name) for name in (schema.MANIFEST, schema.LEDGER)}
    names = {name: f"{Path(name).stem}-{digest[:16]}.parquet" for name, digest in hashes.items()}
    card = replace(card, uri=elsewhere, names=names)
    there = {info.base_name: info.size for info in storage.file_infos(elsewhere)}
    keep = {schema.CARD, *names.values()}
    if schema.CARD in there:
        # The card there may have another format: only its names matter.
        keep |= set(read_tree(storage.join(elsewhere, schema.CARD)).get("names", {}).values())

    def send(name: str) -> None:
        if there.get(names[name]) != (folder / name).stat().st_size:
            storage.upload(folder / name, storage.join(elsewhere, names[name]))

    with ThreadPoolExecutor(UPLOADS) as pool:
        list(pool.map(send, names))
    pointer = folder.with_name("pointer")
    storage.write_bytes(pointer / schema.CARD, card.to_json().encode())
    storage.upload(pointer / schema.CARD, storage.join(elsewhere, schema.CARD))
    storage.write_bytes(pointer / schema.TRAINING, (folder / schema.TRAINING).read_bytes())
    storage.publish_folder(pointer, target)
    for name in sorted(name for name in set(there) - keep if OURS.fullmatch(name)):
        storage.delete_file(storage.join(elsewhere, name))
    return elsewhere


def failures(ledger: Sequence[LedgerRow]) -> dict[str, list[str]]:
    """Returns the ids of failed videos by reason."""
    found: dict[str, list[str]] = {}
    for row in ledger:
        if row.status == schema.FAILED:
            found.setdefault(row.reason, []).append(row.video_id)
    return dict(sorted(found.items()))


def failure_lines(failed: Mapping[str, Sequence[str]]) -> list[str]:
    """Writes a line per reason: how many videos, what the reason means, and the first few ids."""
    return [f"  {reason} {len(ids)} ({schema.REASONS[reason]}): {first_few(ids)}" for reason, ids in failed.items()]


def check_failures(task_name: str, ledger: Sequence[LedgerRow], most: float, where: Path, few: int = 0) -> list[str]:
    """Refuses a store in which too many videos failed, or all of them.

    Args:
        task_name: The task, for the message.
        ledger: A row per video.
        most: The highest accepted ratio of failed videos.
        where: The ledger's path, for the message.
        few: So many failed videos are accepted whatever their ratio, if at least as many are decoded and ``most`` is
            not 0.

    Returns:
        What a person should know about splits in which every video failed, one sentence for each.

    Raises:
        DataError: The message has the ratio, the reasons and the path.
    """
    failed = failures(ledger)
    count = sum(len(ids) for ids in failed.values())
    are_few = most > 0 and count <= min(few, len(ledger) - count)
    if count < len(ledger) and (are_few or count / len(ledger) <= most):
        return [_lost(task_name, split, ledger) for split in SPLITS if _is_lost(split, ledger)]
    raise DataError(
        "\n".join(["too many videos failed, nothing is published", *failure_lines(failed)]),
        where=f"task {task_name}",
        found=f"{count / len(ledger):.1%}",
        expected=f"at most {most:.1%} (frames.max_failed_share), or {few} videos (frames.max_failed_videos)",
        cure=f"every video's reason is in {where}. If the cause was outside the videos, run again with --overwrite. "
        "Otherwise replace them, or take them out of the collection",
    )


def _is_lost(split: str, ledger: Sequence[LedgerRow]) -> bool:
    found = counts(ledger, split)
    return found[schema.FAILED] > 0 and found[schema.DECODED] == 0


def _lost(task_name: str, split: str, ledger: Sequence[LedgerRow]) -> str:
    failed = failures([row for row in ledger if row.split == split])
    reasons = "; ".join(f"{reason}: {first_few(ids)}" for reason, ids in failed.items())
    needs = "training" if split == "train" else "a scorecard"
    return (
        f"task {task_name}: no video of the split {split} could be decoded ({reasons}). The others are searched, but "
        f"{needs} needs one: replace these, or take them out of the collection, and run ingest again"
    )


def counts(ledger: Sequence[LedgerRow], split: str) -> dict[str, int]:
    """Counts the videos of a split by status."""
    statuses = [row.status for row in ledger if row.split == split]
    return {status: statuses.count(status) for status in (schema.DECODED, schema.FAILED)}
