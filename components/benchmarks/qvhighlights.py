"""QVHighlights (Lei et al., NeurIPS 2021): queries about moments of videos of up to 150 seconds.

``highlight_train_release.jsonl`` and ``highlight_val_release.jsonl``, one query per line: ``{"qid", "query",
"duration", "vid", "relevant_windows": [[start, end], ...]}``. The windows are in seconds from the start of the video.
``relevant_clip_ids`` and ``saliency_scores`` (highlights) are not read.

``highlight_test_release.jsonl`` has queries without windows, so their moments cannot be scored. By default the
validation file is the test split. A fixed fraction of the training videos is then held out for validation: all parts of
some videos on YouTube, since the published splits share none. The authors published the windows later, in
``highlight_test_with_gt.jsonl``. The option ``tested: test`` takes that file for the test split, and the validation
file for validation.

A video has all its queries as captions and as moments. Its id is ``<id on YouTube>_<start>_<end>``. Videos:
``videos/<that id>.mp4`` if they are cut, else ``videos/<id on YouTube>.mp4``, of which the part is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from components import storage
from components.benchmarks import files
from components.benchmarks.interface import AnnotationFile, Options, Published, Reader
from components.benchmarks.parse import name_of, parse_json, text_of
from components.errors import ConfigError, DataError
from components.manifest import Manifest, Protocol
from components.video import Moment, Video

TRAIN, VAL = "highlight_train_release.jsonl", "highlight_val_release.jsonl"
TEST, TEST_QUERIES = "highlight_test_with_gt.jsonl", "highlight_test_release.jsonl"
FIELDS = ("qid", "query", "duration", "vid", "relevant_windows")

IDS = re.compile(r"(?P<name>[\w-]{11})_(?P<start>\d+\.\d+)_(?P<end>\d+\.\d+)")
VIDEOS = {TRAIN: 7100, VAL: 1519, TEST: 1529}
QUERIES = {TRAIN: 7218, VAL: 1550, TEST: 1542}


@dataclass(frozen=True)
class Query:
    """One line.

    Args:
        place: The file and the line, for messages.
        video: The id of the video.
        duration: The length of the video in seconds.
        moment: The text with its windows.
    """

    place: str
    video: str
    duration: float
    moment: Moment


def read(task: str, folder: str, options: Options) -> Manifest:
    """Reads the manifest of a folder in the format of QVHighlights.

    Args:
        task: The name of the task.
        folder: The path or URI of the folder.
        options: ``tested`` is the file of the test split, ``val`` (default) or ``test``. ``val_share`` is the fraction
            of the training videos for validation (default 0.05), for ``tested: val``.

    Raises:
        ConfigError: An option is unknown or has a wrong value.
        DataError: A file is missing or damaged, a query occurs twice, or a window is not in its video.
    """
    files.check_options(task, options, ("tested", "val_share"))
    tested = _tested(task, options)
    notes: list[str] = []
    if tested == "test":
        splits = {split: _videos(storage.join(folder, name)) for split, name in _splits(options).items()}
        variant, validation = "train / val / test", VAL
    else:
        share = files.val_share(task, options)
        known = _videos(storage.join(folder, TRAIN))
        held = files.held_out({_source(name) for name in known}, share)
        splits = {"train": {name: queries for name, queries in known.items() if _source(name) not in held}}
        splits["val"] = {name: queries for name, queries in known.items() if _source(name) in held}
        splits["test"] = _videos(storage.join(folder, VAL))
        variant = "train / val"
        validation = f"parts of {share:g} of the training videos on YouTube, lowest SHA-256 of the id"
        if storage.exists(storage.join(folder, TEST_QUERIES)):
            notes.append(f"the queries of {TEST_QUERIES} have no windows, so they are left out (options.tested)")
    found = files.video_files(folder)
    subsets = files.read_subsets(folder, {name for videos in splits.values() for name in videos})
    videos = tuple(
        _video(folder, found, name, split, queries, subsets.get(name, ()))
        for split, known in splits.items()
        for name, queries in known.items()
    )
    rule = "every query of a test video, also as a moment of its video"
    return Manifest(task, Protocol("qvhighlights", variant, rule, validation), videos, tuple(notes))


def _tested(task: str, options: Options) -> object:
    tested = options.get("tested", "val")
    where = f"params.yaml tasks.{task}.options"
    if tested not in ("val", "test"):
        raise ConfigError("not a file of queries to test", where=f"{where}.tested", found=tested, expected="val, test")
    if tested == "test" and "val_share" in options:
        raise ConfigError(
            f"with tested: test, validation uses {VAL}", where=f"{where}.val_share", cure="leave val_share out"
        )
    return tested


def _splits(options: Options) -> dict[str, str]:
    """The file of each split. Without one for ``val``, training videos are held out."""
    return (
        {"train": TRAIN, "val": VAL, "test": TEST} if options.get("tested") == "test" else {"train": TRAIN, "test": VAL}
    )


def _files(options: Options) -> tuple[AnnotationFile, ...]:
    left_out = () if options.get("tested") == "test" else (AnnotationFile((TEST_QUERIES,), needed=False),)
    return (*(AnnotationFile((name,)) for name in _splits(options).values()), *left_out)


def _published(options: Options) -> Published:
    names = _splits(options)
    counts = [{split: known[name] for split, name in names.items()} for known in (VIDEOS, QUERIES)]
    return Published(IDS, *counts)


READER = Reader(read=read, files=_files, published=_published)


def _video(
    folder: str, found: dict[str, str], name: str, split: str, queries: list[Query], subsets: tuple[str, ...]
) -> Video:
    uri, start, end = files.uri_of(folder, found, name), None, None
    if (parts := IDS.fullmatch(name)) is not None:
        # Some videos end before the second that their id names.
        begin = float(parts["start"])
        uri, (start, end) = files.part_of(folder, found, name, parts["name"], (begin, begin + queries[0].duration))
    captions = tuple(query.moment.text for query in queries)
    return Video(name, uri, split, captions, start, end, subsets, moments=tuple(query.moment for query in queries))


def _source(name: str) -> str:
    """The id on YouTube of a video, or the whole id if it has another form."""
    parts = IDS.fullmatch(name)
    return name if parts is None else parts["name"]


def _videos(where: str) -> dict[str, list[Query]]:
    """The queries of each video, in the order of the file."""
    lines: dict[str, str] = {}
    videos: dict[str, list[Query]] = {}
    for qid, query in _queries(where):
        if qid in lines:
            raise DataError(
                "query occurs twice", where=query.place, found=qid, expected="each qid once", cure=f"see {lines[qid]}"
            )
        lines[qid] = query.place
        others = videos.setdefault(query.video, [])
        if others and others[0].duration != query.duration:
            raise DataError(
                "a video has two durations",
                where=query.place,
                found=query.duration,
                expected=f"{others[0].duration}, as in {others[0].place}",
            )
        others.append(query)
    return videos


def _queries(where: str) -> Iterator[tuple[str, Query]]:
    for number, line in files.read_lines(where):
        place = f"{where}:{number}"
        row = parse_json(line, place)
        if not isinstance(row, dict) or not set(FIELDS) <= set(row):
            raise DataError(
                "not a query with its windows",
                where=place,
                found=sorted(row) if isinstance(row, dict) else row,
                expected=f"an object with {', '.join(FIELDS)}",
                cure=f"the published {TEST_QUERIES} has no windows, {TEST} has them",
            )
        video, duration = name_of(f"{place} vid", row["vid"]), _number(row["duration"])
        files.check_id(place, video)
        if duration is None or duration <= 0:
            raise DataError("not a duration", where=place, found=row["duration"], expected="seconds above 0")
        spans = _windows(place, row["relevant_windows"], duration)
        query = Query(place, video, duration, Moment(text_of(f"{place} query", row["query"]), spans))
        yield name_of(f"{place} qid", row["qid"]), query


def _windows(place: str, value: object, duration: float) -> tuple[tuple[float, float], ...]:
    windows = value if isinstance(value, list) else []
    spans = [tuple(map(_number, window)) for window in windows if isinstance(window, list)]
    sound = [
        (start, end)
        for start, end in (span for span in spans if len(span) == 2)
        if start is not None and end is not None and 0 <= start < end <= duration
    ]
    if not sound or len(sound) < len(windows):
        raise DataError(
            "not windows of this video",
            where=f"{place} relevant_windows",
            found=value,
            expected=f"[[start, end], ...] in seconds, at least one, each in 0 to {duration:g}",
        )
    return tuple(sound)


def _number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        return None
    return float(value)
