"""LSMDC (Rohrbach et al., IJCV 2017, with the retrieval test set of 1,000 clips) in the files of its owners.

``LSMDC16_annos_training.csv``, ``LSMDC16_annos_val.csv`` and ``LSMDC16_challenge_1000_publictect.csv`` have six
tab-separated columns and no header: clip id, start and end as aligned, start and end as cut, sentence. Quotation marks
are part of a sentence. Videos: ``videos/<clip id>.avi``, or in a folder named after the movie, which is the clip id up
to its time stamp. Each clip is a separate file, so the times are not used. Validation uses the published split.
"""

from __future__ import annotations

import re

from components import storage
from components.benchmarks import files
from components.benchmarks.interface import AnnotationFile, Options, Published, Reader
from components.errors import DataError
from components.manifest import Manifest, Protocol
from components.video import Video

FILES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
COLUMNS = 6

# Movie, then first and last moment: 3086_UGLY_TRUTH_00.23.23.000-00.23.28.886
CLIP = re.compile(r"(.+)_\d\d\.\d\d\.\d\d\.\d{3}-\d\d\.\d\d\.\d\d\.\d{3}")

PUBLISHED = Published(
    ids=CLIP,
    videos={"train": 109_673, "val": 7408, "test": 1000},
    captions={"test": 1000},
)


def read(task: str, folder: str, options: Options) -> Manifest:
    """Reads the manifest of a folder in the format of LSMDC.

    Args:
        task: The name of the task.
        folder: The path or URI of the folder.
        options: There are no options.

    Raises:
        ConfigError: An option is given.
        DataError: A file is missing, or a line has not six columns, has no sentence or repeats a clip.
    """
    files.check_options(task, options, ())
    sentences = {split: _sentences(storage.join(folder, name)) for split, name in FILES.items()}
    clips = [clip for members in sentences.values() for clip in members]
    found = _video_files(folder, clips)
    subsets = files.read_subsets(folder, set(clips))
    videos = tuple(
        Video(
            clip,
            files.uri_of(folder, found, clip, ending=".avi"),
            split,
            (sentence,),
            subsets=subsets.get(clip, ()),
        )
        for split, members in sentences.items()
        for clip, sentence in members.items()
    )
    protocol = Protocol(
        benchmark="lsmdc",
        variant="public test of 1,000 clips",
        caption_rule="one caption per test video",
        validation=FILES["val"],
    )
    return Manifest(task, protocol, videos)


READER = Reader(
    read=read,
    files=lambda options: tuple(AnnotationFile((name,)) for name in FILES.values()),
    published=lambda options: PUBLISHED,
)


def _sentences(where: str) -> dict[str, str]:
    """The sentence of each clip id, in the order of the file."""
    rows = []
    for number, line in files.read_lines(where):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != COLUMNS or not fields[-1]:
            raise DataError(
                "not a line in the form of LSMDC",
                where=f"{where}:{number}",
                found=line[:80],
                expected="six tab-separated columns: clip id, four times, sentence",
                cure="use the owners' file as it is, without a header and not saved by a spreadsheet",
            )
        rows.append((number, fields))
    clips = files.checked_ids(where, ((number, fields[0]) for number, fields in rows))
    return {clip: fields[-1] for clip, (_, fields) in zip(clips, rows, strict=True)}


def _video_files(folder: str, clips: list[str]) -> dict[str, str]:
    """Files in ``videos`` itself and in the folders of the movies. The latter win."""
    found = files.video_files(folder)
    for movie in dict.fromkeys(match[1] for clip in clips if (match := CLIP.fullmatch(clip))):
        found.update(files.video_files(folder, below=movie))
    return found
