"""RTime, "Reversed in Time" (Du et al., ACM MM 2024): videos next to their reversals.

``train.json``, ``valid.json`` and ``test.json`` have an entry per video: ``{"temporal": bool, "reverse": bool,
"forward_captions": [text], "reverse_captions": [text], "forward_rewrites": [texts], "reverse_rewrites": [texts],
"url"}``. Videos: ``videos/<id>.mp4``. Where ``reverse`` is true, the video played backwards is a second video
``<id>_reverse`` with the reverse captions. It shares the frames of the first, so the file is decoded once.

Validation and test use the captions that people wrote. Training adds the rewrites, which a language model made. A
scorecard has all three evaluations: Hard is its plain metrics, *origin* is a part, and Binary is a block next to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from components import storage
from components.benchmarks import files
from components.benchmarks.interface import AnnotationFile, Options, Published, Reader
from components.benchmarks.parse import text_of
from components.errors import ConfigError, DataError
from components.manifest import Manifest, Protocol
from components.video import Video

FILES = {"train": "train.json", "val": "valid.json", "test": "test.json"}
REVERSAL = "_reverse"
FORM = (
    "{'temporal': bool, 'reverse': bool, 'forward_captions': [text], 'reverse_captions': [text], "
    "'forward_rewrites': [texts], 'reverse_rewrites': [texts]}"
)
FLAGS = ("temporal", "reverse")

PUBLISHED = Published(
    ids=re.compile(r"\d{6,10}"),  # the number of a clip on the stock site
    # Originals and reversals.
    videos={"val": 1000, "test": 2000},
    captions={"val": 1000, "test": 2000},
)


def read(task: str, folder: str, options: Options) -> Manifest:
    """Reads the manifest of a folder in the format of RTime.

    Args:
        task: The name of the task.
        folder: The path or URI of the folder.
        options: ``rewrites`` is whether training uses the rewritten captions, and ``reversals`` whether it uses the
            videos played backwards. Both are true by default.

    Raises:
        ConfigError: An option is unknown, or not true or false.
        DataError: A file is missing or damaged.
    """
    files.check_options(task, options, ("rewrites", "reversals"))
    rewrites, reversals = _flag(task, options, "rewrites"), _flag(task, options, "reversals")
    found = files.video_files(folder)
    videos: list[Video] = []
    for split, name in FILES.items():
        where = storage.join(folder, name)
        for video_id, entry in files.read_json(where, dict).items():
            files.check_id(where, video_id)
            uri = files.uri_of(folder, found, video_id)
            trained = split == "train"
            for video in _videos(f"{where} {video_id}", video_id, uri, split, entry, rewrites and trained):
                if video.reverse_of is None or reversals or not trained:
                    videos.append(video)
    subsets = files.read_subsets(folder, {video.video_id for video in videos})
    videos = [replace(video, subsets=subsets.get(video.video_id, ())) for video in videos]
    protocol = Protocol(
        benchmark="rtime",
        variant="Hard: originals and reversals; the part origin has the originals alone; Binary: one or the other",
        caption_rule="one caption per test video and one per reversal",
        validation="valid.json",
    )
    return Manifest(task, protocol, tuple(videos))


READER = Reader(
    read=read,
    files=lambda options: tuple(AnnotationFile((name,)) for name in FILES.values()),
    published=lambda options: PUBLISHED,
)


def _flag(task: str, options: Options, name: str) -> bool:
    if not isinstance(value := options.get(name, True), bool):
        where = f"params.yaml tasks.{task}.options.{name}"
        raise ConfigError("neither yes nor no", where=where, found=value, expected="true or false")
    return value


def _videos(where: str, video_id: str, uri: str, split: str, entry: object, rewrites: bool) -> Iterator[Video]:
    """The video of an entry, and its reversal if it has one."""
    if not isinstance(entry, dict):
        raise DataError("not in the form of RTime", where=where, found=entry, expected=FORM)
    for name in FLAGS:
        if not isinstance(entry.get(name), bool):
            raise DataError(
                "neither true nor false", where=f"{where} {name}", found=entry.get(name), expected="true or false"
            )
    yield Video(video_id, uri, split, _captions(where, entry, "forward", rewrites))
    if entry["reverse"]:
        captions = _captions(where, entry, "reverse", rewrites)
        yield Video(video_id + REVERSAL, uri, split, captions, reverse_of=video_id)


def _captions(where: str, entry: dict[str, object], direction: str, rewrites: bool) -> tuple[str, ...]:
    names = [f"{direction}_captions", *([f"{direction}_rewrites"] if rewrites else [])]
    captions = []
    for name in names:
        texts = entry.get(name)
        if not isinstance(texts, list) or (not texts and name == names[0]):
            raise DataError("no list of captions", where=f"{where} {name}", found=texts, expected="a list of texts")
        captions += [text_of(f"{where} {name}", text) for text in texts]
    return tuple(captions)
