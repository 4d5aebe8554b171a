"""The frame store: Parquet shards of JPEG frames, the manifest that they come from, a ledger and a card."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components import storage
from components.errors import DataError, one_line
from components.frames import schema
from components.frames.card import read_card
from components.frames.checks import CURE, check_columns, check_hash, check_ledger, open_table
from components.manifest import SPLITS, Manifest, first_few

# While a scattered request is put in order, the encoded frames of this many videos are in memory: about 60 MB.
WINDOW = 256


@dataclass(frozen=True)
class StoredVideo:
    """The sampled frames of one video.

    Args:
        video_id: The id in the manifest.
        frames: JPEG bytes in the order in which they are shown, at most as many as the task samples.
        timestamps_seconds: When each frame is shown, counted from the first frame that the file shows.
        frame_indices: The number of each frame in the file, from 0.
        width, height: The size of the stored frames in pixels.
        source_width, source_height: The size of the file's frames in pixels.
        source_frames: The number of frames in the file.
        fps: The mean frame rate of the file.
        duration_seconds: The length of the file.
        content_sha256: The hash of the file.
        decoder: The name and version of the decoder.
        corrupt_frames: How many frames the decoder flagged as damaged on its way to these, or None if it cannot say.
    """

    video_id: str
    frames: list[bytes]
    timestamps_seconds: tuple[float, ...]
    frame_indices: tuple[int, ...]
    width: int
    height: int
    source_width: int
    source_height: int
    source_frames: int
    fps: float
    duration_seconds: float
    content_sha256: str
    decoder: str
    corrupt_frames: int | None

    def backwards(self, video_id: str) -> StoredVideo:
        """The same frames in the opposite order, as the video ``video_id``."""
        return replace(
            self,
            video_id=video_id,
            frames=self.frames[::-1],
            timestamps_seconds=self.timestamps_seconds[::-1],
            frame_indices=self.frame_indices[::-1],
        )


class FrameStore:
    """Read access to a published store.

    Args:
        uri: The folder or URI of the store, or a folder with only the card of a store that is elsewhere.

    Raises:
        DataError: There is no store, it has another format, or a shard is missing or damaged.
    """

    def __init__(self, uri: str | Path) -> None:
        self.card = read_card(uri)
        self.uri = str(uri) if self.card.uri is None else self.card.uri
        self._verified: set[int] = set()
        sizes = self._sizes()
        for shard in self.card.shards:
            name = self.card.name_of(shard.name)
            if sizes.get(name) != shard.bytes:
                raise DataError(
                    "shard is damaged" if name in sizes else "shard is missing",
                    where=storage.join(self.uri, name),
                    found=sizes.get(name),
                    expected=f"{shard.bytes} bytes",
                    cure=CURE,
                )

    @property
    def fingerprint(self) -> str:
        """The hex SHA-256 over manifest, settings, ledger and shards."""
        return self.card.fingerprint

    @property
    def training_fingerprint(self) -> str:
        """The same without windows and facts. It changes if training or evaluation would read something else."""
        return self.card.training_fingerprint or self.card.fingerprint

    @functools.cached_property
    def manifest(self) -> Manifest:
        """All videos of the collection, decoded or not."""
        try:
            return Manifest.from_table(self._table(schema.MANIFEST))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                "not a manifest", where=self._location(schema.MANIFEST), found=str(error)[:200], cure=CURE
            ) from None

    @functools.cached_property
    def _ledger(self) -> pa.Table:
        ledger = self._table(schema.LEDGER)
        check_ledger(ledger, self.card.shards, self._location(schema.LEDGER))
        return ledger

    @functools.cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        columns = self._ledger.select(["video_id", "shard", "row"]).to_pydict()
        rows = zip(columns["video_id"], columns["shard"], columns["row"], strict=True)
        return {video_id: (shard, row) for video_id, shard, row in rows if row is not None}

    @functools.cached_property
    def _reversals(self) -> dict[str, str]:
        """For each video that runs backwards: the video whose frames it shows."""
        return self._column("reverse_of")

    def ledger(self) -> pa.Table:
        """What happened to each video of the manifest: a table of :data:`components.frames.schema.LEDGER_SCHEMA`."""
        return self._ledger

    def ids(self, split: str) -> list[str]:
        """The decoded videos of a split, or of all splits for ``all``, in manifest order. Windows are none.

        Raises:
            DataError: There is no such split.
        """
        return self._with_status(split, schema.DECODED)

    def searched_ids(self, split: str) -> list[str]:
        """What an index of a split holds: the windows, and the decoded videos that have none, in manifest order.

        Raises:
            DataError: There is no such split.
        """
        cut = set(self._windows.values())
        return [name for name in self._with_status(split, schema.DECODED, windows=True) if name not in cut]

    def failed(self, split: str) -> list[str]:
        """The videos of a split, or of all splits for ``all``, that have no frames.

        Raises:
            DataError: There is no such split.
        """
        return self._with_status(split, schema.FAILED)

    def read(self, ids: Sequence[str]) -> Iterator[StoredVideo]:
        """Reads videos in the order of ``ids``. This is fast if neighbours in ``ids`` are neighbours in the store.

        Raises:
            DataError: An id is not in the store or has no frames.
        """
        if unknown := [video_id for video_id in ids if video_id not in self._places]:
            raise DataError("video has no frames in this store", where=self.uri, found=first_few(unknown))
        return self._read(list(ids))

    def times(self, ids: Sequence[str]) -> dict[str, tuple[tuple[float, ...], float]]:
        """When the frames of videos are shown, and the lengths of their files, in seconds. No frame is read.

        Raises:
            DataError: An id is not in the store or has no frames.
        """
        if unknown := [video_id for video_id in ids if video_id not in self._places]:
            raise DataError("video has no frames in this store", where=self.uri, found=first_few(unknown))
        shown = {video_id: self._reversals.get(video_id, video_id) for video_id in ids}
        columns = ["video_id", "timestamps_seconds", "duration_seconds"]
        found = {}
        for shard in sorted({self._places[name][0] for name in shown.values()}):
            for row in self._open_shard(shard).read(columns=columns).to_pylist():
                found[row["video_id"]] = tuple(row["timestamps_seconds"]), row["duration_seconds"]
        return {
            video_id: found[name] if name == video_id else (found[name][0][::-1], found[name][1])
            for video_id, name in shown.items()
        }

    def _read(self, ids: list[str]) -> Iterator[StoredVideo]:
        for start in range(0, len(ids), WINDOW):
            window = ids[start : start + WINDOW]
            found = self._fetch(window)
            for video_id in window:
                yield found[video_id]

    def _fetch(self, ids: list[str]) -> dict[str, StoredVideo]:
        wanted: dict[int, list[int]] = {}
        stored = {video_id: self._reversals.get(video_id, video_id) for video_id in ids}
        for video_id in dict.fromkeys(stored.values()):
            shard, row = self._places[video_id]
            wanted.setdefault(shard, []).append(row)
        videos = (video for shard, rows in sorted(wanted.items()) for video in self._rows(shard, sorted(rows)))
        found = {video.video_id: video for video in videos}
        if lost := sorted(set(stored.values()) - set(found)):
            raise DataError(
                "the ledger names another row for this video", where=self.place(lost[0]), found=lost[0], cure=CURE
            )
        return {
            video_id: found[name] if name == video_id else found[name].backwards(video_id)
            for video_id, name in stored.items()
        }

    def _rows(self, shard: int, rows: list[int]) -> Iterator[StoredVideo]:
        """Reads rows of a shard in ascending order: the row groups that hold them, in one request if they adjoin."""
        file, per_group = self._open_shard(shard), self.card.settings.row_group_videos
        groups = sorted({row // per_group for row in rows})
        table = file.read_row_groups(groups)
        # The table holds these groups only. All but a shard's last one have the same size.
        place = {group: number * per_group for number, group in enumerate(groups)}
        for row in rows:
            # `take` would copy a list<binary> column, so the table is sliced one row at a time instead.
            yield _stored_video(table.slice(place[row // per_group] + row % per_group, 1).to_pylist()[0])

    @functools.cached_property
    def _windows(self) -> dict[str, str]:
        """For each window: the video of which it is one."""
        return self._column(schema.WINDOW_OF.name)

    def _column(self, name: str) -> dict[str, str]:
        """The values of a column of the ledger that may be absent, by the id of the video."""
        if name not in self._ledger.schema.names:
            return {}
        columns = self._ledger.select(["video_id", name]).to_pydict()
        rows = zip(columns["video_id"], columns[name], strict=True)
        return {video_id: value for video_id, value in rows if value is not None}

    def place(self, video_id: str) -> str:
        """The shard and row of a decoded video, for messages."""
        shard, row = self._places[video_id]
        return f"{self._location(schema.shard_name(shard))}, row {row}"

    def _with_status(self, split: str, status: str, *, windows: bool = False) -> list[str]:
        if split not in (*SPLITS, "all"):
            raise DataError("unknown split", where=self.uri, found=split, expected=", ".join((*SPLITS, "all")))
        columns = self._ledger.select(["video_id", "split", "status"]).to_pydict()
        rows = zip(columns["video_id"], columns["split"], columns["status"], strict=True)
        found = [name for name, its_split, its_status in rows if split in ("all", its_split) and its_status == status]
        return [name for name in found if windows or name not in self._windows]

    def _sizes(self) -> dict[str, int]:
        """The length in bytes of every file of the store, by one request instead of one per file."""
        return {info.base_name: info.size for info in storage.file_infos(self.uri)}

    def _location(self, name: str) -> str:
        return storage.join(self.uri, self.card.name_of(name))

    def _open_shard(self, number: int) -> pq.ParquetFile:
        """Opens a shard. Its hash is compared the first time, since damage may leave the length as it is."""
        location, shard = self._location(schema.shard_name(number)), self.card.shards[number]
        if number not in self._verified:
            check_hash(location, shard)
        opened = open_table(location)
        if number not in self._verified:
            check_columns(opened.schema_arrow, schema.FRAMES_SCHEMA, location)
            per_group, metadata = self.card.settings.row_group_videos, opened.metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            expected = [min(per_group, shard.videos - start) for start in range(0, shard.videos, per_group)]
            if [size for size in sizes if size] != expected:
                raise DataError("shard has other rows than the card says", where=location, found=sizes, cure=CURE)
            self._verified.add(number)
        return opened

    def _table(self, name: str) -> pa.Table:
        location = self._location(name)
        try:
            return open_table(location).read()
        except (OSError, pa.ArrowException) as error:
            raise DataError("damaged", where=location, found=one_line(error), cure=CURE) from None


def _stored_video(row: dict[str, Any]) -> StoredVideo:
    times, indices = tuple(row.pop("timestamps_seconds")), tuple(row.pop("frame_indices"))
    return StoredVideo(timestamps_seconds=times, frame_indices=indices, **row)
