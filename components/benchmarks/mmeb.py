"""The video retrieval tasks of MMEB-V2 (Meng et al., 2025), the protocol of multimodal embedders.

8 frames per video, one query per test video, the whole test set as the gallery, and hit@1, which is R@1 here. The sets
are MSR-VTT, MSVD, DiDeMo, YouCook2 and VATEX. MMEB has no training videos. Training and validation are those of the
set's reader, in the same folder.

The test rows are in ``mmeb_<set>.jsonl``, ``.json`` or ``.parquet``, with the columns of the published tables
(:data:`SETS`). A list of captions gives its first one. MSR-VTT, MSVD and DiDeMo can do without this file: their test
split has the same videos, and the first caption of each is the query.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from components import storage
from components.benchmarks import didemo, files, msrvtt, msvd, vatex, youcook2
from components.benchmarks.interface import AnnotationFile, Options, Published, Reader
from components.benchmarks.parse import name_of, parse_json, text_of
from components.errors import ConfigError, DataError, one_line
from components.manifest import Manifest, Protocol
from components.video import Video

FRAMES = 8
ENDINGS = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Set:
    """One of the five sets.

    Args:
        reader: Reads training, validation and, without a table of rows, the test.
        videos: The number of test videos.
        id: The column with the id, or with a file name whose stem is the id.
        caption: The column with the caption or captions.
        path: The column with the name of the video's file, or None if the id names it.
        is_needed: Whether the test of ``reader`` has other videos, so that a table of rows is needed.
        ids: The form of test ids.
    """

    reader: Reader
    videos: int
    id: str
    caption: str
    path: str | None
    is_needed: bool
    ids: re.Pattern[str]


SETS = {
    "msrvtt": Set(msrvtt.READER, 1000, "video_id", "caption", "video", False, msrvtt.TEST_IDS),
    "msvd": Set(msvd.READER, 670, "video_id", "caption", "video", False, msvd.PUBLISHED.ids),
    "didemo": Set(didemo.READER, 1004, "video", "caption", "video", False, didemo.PUBLISHED.ids),
    "youcook2": Set(youcook2.READER, 3179, "id", "sentence", "video_path", True, re.compile(r"[\w-]{11}_\d+")),
    "vatex": Set(vatex.READER, 4478, "videoID", "enCap", None, True, vatex.IDS),
}


def read(task: str, folder: str, options: Options) -> Manifest:
    """Reads the manifest of a folder that has one of the sets.

    Args:
        task: The name of the task.
        folder: The path or URI of the folder.
        options: ``set`` is the name of the set. The others are those of its reader.

    Raises:
        ConfigError: The set is unknown, or an option is.
        DataError: A file is missing or damaged, or a test video is in the training or validation split.
    """
    name, chosen = _set(task, options)
    manifest = chosen.reader.read(task, folder, _others(options))
    known = {video.video_id: video for video in manifest.videos}
    kept = [video for video in manifest.videos if video.split != "test"]
    where = _table(folder, name)
    if where is None and chosen.is_needed:
        raise DataError(
            "no test rows of MMEB-V2",
            where=folder,
            expected=" or ".join(f"mmeb_{name}{ending}" for ending in ENDINGS),
            cure=f"its test videos of {name} are others than those of the data set: save the published table there",
        )
    if where is None:
        tested = [replace(video, captions=video.captions[:1], languages=()) for video in manifest.split("test")]
    else:
        found = files.video_files(folder)
        tested = [_video(chosen, folder, found, known, place, row) for place, row in _rows(where)]
    protocol = Protocol(
        benchmark="mmeb",
        variant=f"MMEB-V2 video retrieval, {name}: {FRAMES} frames, R@1 is hit@1",
        caption_rule="one caption per test video",
        validation=manifest.protocol.validation,
    )
    return Manifest(task, protocol, (*kept, *tested), manifest.notes)


def _files(options: Options) -> tuple[AnnotationFile, ...]:
    name, chosen = _set("", options)
    rows = AnnotationFile(tuple(f"mmeb_{name}{ending}" for ending in ENDINGS), needed=chosen.is_needed)
    return (*chosen.reader.files(_others(options)), rows)


def _published(options: Options) -> Published:
    _, chosen = _set("", options)
    return Published(chosen.ids, {"test": chosen.videos}, {"test": chosen.videos})


READER = Reader(read=read, files=_files, published=_published, frames=FRAMES)


def _set(task: str, options: Options) -> tuple[str, Set]:
    name = options.get("set")
    if not isinstance(name, str) or name not in SETS:
        where = f"params.yaml tasks.{task}.options.set"
        raise ConfigError("not a set of MMEB-V2", where=where, found=name, expected="one of " + ", ".join(SETS))
    return name, SETS[name]


def _others(options: Options) -> Options:
    return {name: value for name, value in options.items() if name != "set"}


def _table(folder: str, name: str) -> str | None:
    places = (storage.join(folder, f"mmeb_{name}{ending}") for ending in ENDINGS)
    return next((place for place in places if storage.exists(place)), None)


def _rows(where: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The place of each row and its fields."""
    if where.endswith(".parquet"):
        try:
            rows = pq.read_table(io.BytesIO(storage.read_bytes(where))).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError("not Parquet, or damaged", where=where, found=one_line(error)) from None
        found: Iterator[tuple[str, object]] = ((f"{where} row {n}", row) for n, row in enumerate(rows, 1))
    elif where.endswith(".jsonl"):
        found = ((f"{where}:{n}", parse_json(line, f"{where}:{n}")) for n, line in files.read_lines(where))
    else:
        found = ((f"{where} entry {n}", row) for n, row in enumerate(files.read_json(where, list), 1))
    for place, row in found:
        if not isinstance(row, dict):
            raise DataError("not an object", where=place, found=row, expected="the columns of the published table")
        yield place, row


def _video(
    chosen: Set,
    folder: str,
    found: Mapping[str, str],
    known: Mapping[str, Video],
    place: str,
    row: Mapping[str, object],
) -> Video:
    """The test video of a row."""
    if missing := [name for name in (chosen.id, chosen.caption) if name not in row]:
        raise DataError("column is missing", where=place, found=sorted(row), expected=", ".join(missing))
    name = _stem(name_of(f"{place} {chosen.id}", row[chosen.id]))
    files.check_id(f"{place} {chosen.id}", name)
    texts = row[chosen.caption]
    first = texts[0] if isinstance(texts, list) and texts else texts
    caption = text_of(f"{place} {chosen.caption}", first)
    if (video := known.get(name)) is not None:
        # One that is in another split too is named by the check of the manifest.
        return Video(name, video.uri, "test", (caption,), video.start_seconds, video.end_seconds)
    if chosen.id == "videoID":
        uri, start, end = vatex.location(folder, found, name)
        return Video(name, uri, "test", (caption,), start, end)
    path = row.get(chosen.path) if chosen.path is not None else None
    stems = [name, *([_stem(path)] if isinstance(path, str) else [])]
    return Video(name, files.uri_of(folder, found, *stems), "test", (caption,))


def _stem(name: str) -> str:
    """The stem of a path whose file is a video, or the name as it is."""
    last = PurePosixPath(name).name
    return didemo.plain_id(last)
