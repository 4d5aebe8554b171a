"""MSVD (Chen & Dolan, ACL 2011) in the files of CLIP4Clip and of X-Pool.

``train_list.txt``, ``val_list.txt`` and ``test_list.txt`` have one id per line. Captions are in ``captions_msvd.json``
(X-Pool: a list of texts per id) or ``raw-captions.pkl`` (CLIP4Clip: a list of lists of words per id), whichever exists,
JSON first. Videos: ``videos/<id>.avi``. Every caption of a test video is a query. Validation uses the published split.
"""

from __future__ import annotations

import re

from components import storage
from components.benchmarks import files
from components.benchmarks.interface import AnnotationFile, Options, Published, Reader
from components.benchmarks.parse import name_of
from components.benchmarks.plain_pickle import read_plain_pickle
from components.errors import DataError
from components.manifest import SPLITS, Manifest, Protocol, first_few
from components.video import Video

JSON, PICKLE = "captions_msvd.json", "raw-captions.pkl"
FORM = "a mapping of each video id to a list of captions, each a text or a list of words"

PUBLISHED = Published(
    ids=re.compile(r"[\w-]{11}_\d+_\d+"),  # id on YouTube, first and last second
    videos={"train": 1200, "val": 100, "test": 670},
    captions={"train": 48_774, "val": 4290, "test": 27_763},
)


def read(task: str, folder: str, options: Options) -> Manifest:
    """Reads the manifest of a folder in the format of MSVD.

    Args:
        task: The name of the task.
        folder: The path or URI of the folder.
        options: There are no options.

    Raises:
        ConfigError: An option is given.
        DataError: A file is missing or damaged, or a split names a video without captions.
    """
    files.check_options(task, options, ())
    where = next((at for name in (JSON, PICKLE) if storage.exists(at := storage.join(folder, name))), None)
    if where is None:
        raise DataError("no captions", where=folder, expected=f"{JSON} or {PICKLE}")
    captions = _captions(where)
    splits = {split: _ids(storage.join(folder, f"{split}_list.txt")) for split in SPLITS}
    if missing := [name for ids in splits.values() for name in ids if not captions.get(name)]:
        raise DataError(
            "videos without a caption",
            where=where,
            found=first_few(missing),
            expected="at least one for each id of the lists",
        )
    found = files.video_files(folder)
    subsets = files.read_subsets(folder, {name for ids in splits.values() for name in ids})
    videos = tuple(
        Video(
            name,
            files.uri_of(folder, found, name, ending=".avi"),
            split,
            tuple(captions[name]),
            subsets=subsets.get(name, ()),
        )
        for split, ids in splits.items()
        for name in ids
    )
    protocol = Protocol(
        benchmark="msvd",
        variant="1,200 / 100 / 670",
        caption_rule="every caption of a test video is a query",
        validation="val_list.txt",
    )
    return Manifest(task, protocol, videos)


READER = Reader(
    read=read,
    files=lambda options: (
        *(AnnotationFile((f"{split}_list.txt",)) for split in SPLITS),
        AnnotationFile((JSON, PICKLE)),
    ),
    published=lambda options: PUBLISHED,
)


def _ids(where: str) -> list[str]:
    return files.checked_ids(where, files.read_lines(where))


def _captions(where: str) -> dict[str, list[str]]:
    content = files.read_json(where, dict) if where.endswith(JSON) else read_plain_pickle(where, FORM, JSON)
    if not isinstance(content, dict):
        raise DataError("unexpected captions", where=where, found=type(content).__name__, expected=FORM)
    # A list of a pickle may be in it many times at the cost of two bytes each. No real file grows by that so much.
    most = MOST_EXPANSION * (storage.size(where) or 0)
    captions: dict[str, list[str]] = {}
    for key, entries in content.items():
        name = name_of(where, key)
        if not isinstance(entries, list | tuple):
            raise DataError("unexpected captions", where=f"{where} {name}", found=entries, expected=FORM)
        captions[name] = []
        for entry in entries:
            words = _words(f"{where} {name}", entry)
            most -= sum(map(len, words)) + len(words)
            if most < 0:
                raise DataError(
                    "captions that fill the memory", where=f"{where} {name}", expected="as much text as in the file"
                )
            captions[name].append(_text(f"{where} {name}", words))
    return captions


# Texts that repeat in a pickle take two to five bytes each.
MOST_EXPANSION = 100


def _words(where: str, entry: object) -> list[str]:
    parts = entry if isinstance(entry, list | tuple) else [entry]
    words = [part for part in parts if isinstance(part, str)]
    if len(words) < len(parts):
        raise DataError("unexpected caption", where=where, found=entry, expected="a text or a list of words")
    return words


def _text(where: str, words: list[str]) -> str:
    if not (text := " ".join(" ".join(words).split())):
        raise DataError("empty caption", where=where, expected="a text", cure="remove it from the file")
    return text
