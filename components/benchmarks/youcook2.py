"""YouCook2 (Zhou et al., AAAI 2018): each annotated segment of a cooking video is a video with one sentence.

``youcookii_annotations_trainval.json``: ``{"database": {"<id on YouTube>": {"subset": "training" or "validation",
"annotations": [{"id": 0, "segment": [start, end], "sentence": text}, ...]}}}``. The validation videos are the test
split. Validation uses a fixed fraction of the training videos with all their segments.

An id is ``<id on YouTube>_<number of the segment>``. Videos: ``videos/<that id>.mp4`` if they are cut, else
``videos/<id on YouTube>.mp4``, of which the segment is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from components import storage
from components.benchmarks import files
from components.benchmarks.interface import AnnotationFile, Options, Reader
from components.benchmarks.parse import name_of, text_of
from components.errors import DataError
from components.manifest import Manifest, Protocol
from components.video import Video

FILE = "youcookii_annotations_trainval.json"
FORM = "{'database': {id: {'subset', 'annotations': [{'id', 'segment': [start, end], 'sentence'}]}}}"
SUBSETS = {"training": "train", "validation": "test"}


@dataclass(frozen=True)
class Segment:
    """One annotated segment.

    Args:
        video: The id on YouTube.
        number: Its number in the video.
        start, end: Seconds of the video.
        sentence: The text.
    """

    video: str
    number: str
    start: float
    end: float
    sentence: str

    @property
    def id(self) -> str:
        """The id in the manifest."""
        return f"{self.video}_{self.number}"


def read(task: str, folder: str, options: Options) -> Manifest:
    """Reads the manifest of a folder in the format of YouCook2.

    Args:
        task: The name of the task.
        folder: The path or URI of the folder.
        options: ``val_share`` is the fraction of the training videos for validation (default 0.05).

    Raises:
        ConfigError: An option is unknown.
        DataError: The file is missing or damaged.
    """
    files.check_options(task, options, ("val_share",))
    splits = _segments(storage.join(folder, FILE))
    share = files.val_share(task, options)
    held = files.held_out({segment.video for segment in splits["train"]}, share)
    found = files.video_files(folder)
    subsets = files.read_subsets(folder, {segment.id for segments in splits.values() for segment in segments})
    videos = []
    for split, segments in splits.items():
        for segment in segments:
            uri, span = files.part_of(folder, found, segment.id, segment.video, (segment.start, segment.end))
            place = "val" if split == "train" and segment.video in held else split
            videos.append(
                Video(segment.id, uri, place, (segment.sentence,), *span, subsets=subsets.get(segment.id, ()))
            )
    protocol = Protocol(
        benchmark="youcook2",
        variant="training / validation",
        caption_rule="one sentence per segment",
        validation=f"segments of {share:g} of the training videos, lowest SHA-256 of the id",
    )
    return Manifest(task, protocol, tuple(videos))


READER = Reader(read=read, files=lambda options: (AnnotationFile((FILE,)),))


def _segments(where: str) -> dict[str, list[Segment]]:
    """The segments of each split."""
    database = files.read_json(where, dict).get("database")
    if not isinstance(database, dict):
        raise DataError("not in the form of YouCook2", where=where, found=database, expected=FORM)
    splits: dict[str, list[Segment]] = {"train": [], "test": []}
    for video, entry in database.items():
        files.check_id(where, video)
        subset = entry.get("subset") if isinstance(entry, dict) else None
        rows = entry.get("annotations") if isinstance(entry, dict) else None
        if subset not in SUBSETS or not isinstance(rows, list):
            raise DataError("not in the form of YouCook2", where=f"{where} {video}", found=entry, expected=FORM)
        splits[SUBSETS[subset]] += [_segment(where, video, row) for row in rows]
    return splits


def _segment(where: str, video: str, row: object) -> Segment:
    if not isinstance(row, dict):
        raise DataError("not in the form of YouCook2", where=f"{where} {video}", found=row, expected=FORM)
    number = name_of(f"{where} {video} id", row.get("id"))
    place = f"{where} {video} {number}"
    start, end = seconds(f"{place} segment", row.get("segment"))
    return Segment(video, number, start, end, text_of(f"{place} sentence", row.get("sentence")))


def seconds(where: str, value: object) -> tuple[float, float]:
    """A start and an end in seconds.

    Raises:
        DataError: The value is something else.
    """
    pair = value if isinstance(value, list) else []
    numbers = [float(n) for n in pair if isinstance(n, int | float) and not isinstance(n, bool)]
    if len(pair) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] < float("inf"):
        raise DataError("not a segment", where=where, found=value, expected="[start, end] in seconds, end after start")
    return numbers[0], numbers[1]
