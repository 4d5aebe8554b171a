"""DiDeMo as paragraph-to-video retrieval (Anne Hendricks et al., ICCV 2017), in the files of CLIP4Clip's loader.

``train_list.txt``, ``val_list.txt`` and ``test_list.txt`` have the name of a video file per line. ``train_data.json``,
``val_data.json`` and ``test_data.json`` are lists of ``{"video": file name, "description": ..., "times": ...}``. The
only text of a video is all its descriptions, joined by a space. The times are not used, since other implementations
take the whole video. Videos: ``videos/<file name>``, also with an added ``.mp4`` or with ``.mp4`` in place of its
ending. Ids in the manifest have no ending. Validation uses the published split.

Other implementations drop three files. If one of these is missing, it is left out with a warning.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from components import storage
from components.benchmarks import files
from components.benchmarks.interface import AnnotationFile, Options, Published, Reader
from components.benchmarks.parse import text_of
from components.errors import DataError
from components.manifest import SPLITS, Manifest, Protocol, first_few
from components.video import Video

LOST = (
    "37996615073@N01_3336195519_579ea4136c",
    "44124421772@N01_2867159874_e39e716b7e",
    "59627558@N00_4659075184_253744838b",
)

PUBLISHED = Published(
    ids=re.compile(r"\d+@N\d\d_\d+_[0-9a-f]{10}"),  # owner, photo and secret on Flickr
    videos={"train": 8395, "val": 1065, "test": 1004},
    captions={"train": 8395, "val": 1065, "test": 1004},
)


def read(task: str, folder: str, options: Options) -> Manifest:
    """Reads the manifest of a folder in the format of DiDeMo.

    Args:
        task: The name of the task.
        folder: The path or URI of the folder.
        options: There are no options.

    Raises:
        ConfigError: An option is given.
        DataError: A file is missing or damaged, an id occurs twice, or a listed video has no description.
    """
    files.check_options(task, options, ())
    splits = {split: _paragraphs(folder, split) for split in SPLITS}
    found = files.video_files(folder)
    subsets = files.read_subsets(folder, {plain_id(name) for names in splits.values() for name in names})
    videos, lost = [], []
    for split, paragraphs in splits.items():
        for name, text in paragraphs.items():
            video_id, ending = plain_id(name), PurePosixPath(name).suffix or ".mp4"
            if video_id in LOST and not {video_id, name} & set(found):
                lost.append(name)
                continue
            uri = files.uri_of(folder, found, video_id, name, ending=ending)
            videos.append(Video(video_id, uri, split, (text,), subsets=subsets.get(video_id, ())))
    notes = (f"files that other implementations drop too are left out: {first_few(lost)}",) if lost else ()
    protocol = Protocol(
        benchmark="didemo",
        variant="8,395 / 1,065 / 1,004",
        caption_rule="descriptions of a video joined to one paragraph",
        validation="val_list.txt",
    )
    return Manifest(task, protocol, tuple(videos), notes)


READER = Reader(
    read=read,
    files=lambda options: tuple(
        AnnotationFile((name,)) for split in SPLITS for name in (f"{split}_list.txt", f"{split}_data.json")
    ),
    published=lambda options: PUBLISHED,
)


def plain_id(name: str) -> str:
    """The name of a file without its ending, and without the ``.mp4`` that some copies add to it."""
    while (ending := PurePosixPath(name).suffix).lower() in files.VIDEO_ENDINGS:
        name = name.removesuffix(ending)
    return name


def _paragraphs(folder: str, split: str) -> dict[str, str]:
    """The paragraph of each listed file name, in the order of the list."""
    listed_at, where = storage.join(folder, f"{split}_list.txt"), storage.join(folder, f"{split}_data.json")
    lines = files.read_lines(listed_at)
    ids = files.checked_ids(listed_at, ((number, plain_id(name)) for number, name in lines))
    descriptions: dict[str, list[str]] = {}
    for number, row in enumerate(files.read_json(where, list), 1):
        video, text = _entry(f"{where} entry {number}", row)
        descriptions.setdefault(plain_id(video), []).append(text)
    if missing := [name for name in ids if name not in descriptions]:
        raise DataError(
            "listed videos without a description",
            where=where,
            found=first_few(missing),
            expected=f"at least one entry for each line of {listed_at}",
        )
    return {name: " ".join(descriptions[video_id]) for (_, name), video_id in zip(lines, ids, strict=True)}


def _entry(where: str, row: object) -> tuple[str, str]:
    """The file name and the description of one entry."""
    if not isinstance(row, dict) or not isinstance(row.get("video"), str) or "description" not in row:
        raise DataError(
            "not in the form of DiDeMo", where=where, found=row, expected="{'video', 'description', 'times'}"
        )
    return row["video"], text_of(f"{where} {row['video']}", row["description"])
