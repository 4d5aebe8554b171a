"""VATEX (Wang et al., ICCV 2019) in its published files and in those of CLIP4Clip's family of loaders.

``vatex_training_v1.0.json`` and ``vatex_validation_v1.0.json`` are lists of ``{"videoID", "enCap": [10 texts],
"chCap": [10 texts]}``. ``ref_captions.json`` has a list of English texts per id, and is read first where it exists.

``test_list.txt`` has one id per line. Retrieval divides the 3,000 videos of the validation file into 1,500 for
validation and 1,500 for the test (Chen et al., CVPR 2020). ``val_list.txt`` may be missing where the validation file
exists: it is then all of that file but the test. ``train_list.txt`` may be missing where the training file exists.

An id is that of a video on YouTube with the first and the last second: ``<id>_000010_000020``. Videos:
``videos/<id with seconds>.mp4`` if they are cut, else ``videos/<id on YouTube>.mp4``, of which these seconds are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from components import storage
from components.benchmarks import files
from components.benchmarks.interface import AnnotationFile, Options, Published, Reader
from components.benchmarks.languages import counted, joined, languages
from components.benchmarks.parse import text_of
from components.errors import DataError
from components.manifest import Manifest, Protocol, first_few
from components.video import Video

TRAINING, VALIDATION, REFERENCE = "vatex_training_v1.0.json", "vatex_validation_v1.0.json", "ref_captions.json"
FIELDS = {"en": "enCap", "zh": "chCap"}
FORM = "a list of {'videoID': id, 'enCap': [texts], 'chCap': [texts]}"

IDS = re.compile(r"(?P<name>[\w-]{11})_(?P<start>\d{6})_(?P<end>\d{6})")
VIDEOS = {"train": 25_991, "val": 1500, "test": 1500}
CAPTIONS = 10


def read(task: str, folder: str, options: Options) -> Manifest:
    """Reads the manifest of a folder in the formats of VATEX.

    Args:
        task: The name of the task.
        folder: The path or URI of the folder.
        options: ``languages`` is ``en`` (default), ``zh`` or ``en, zh``. ``val_share`` is the fraction of the training
            videos for validation, in place of the published validation videos.

    Raises:
        ConfigError: An option is unknown or has a wrong value.
        DataError: A file is missing or damaged, or a listed video has no caption in one of the languages.
    """
    files.check_options(task, options, ("languages", "val_share"))
    spoken = languages(task, options, tuple(FIELDS))
    published = _PublishedFiles(folder)
    texts = {language: _captions(folder, language, published) for language in spoken}
    splits, validation = _splits(task, folder, options, published)
    for language, known in texts.items():
        if missing := [name for ids in splits.values() for name in ids if name not in known]:
            raise DataError(
                f"videos without a caption in the language {language!r}",
                where=folder,
                found=first_few(missing),
                expected="at least one for each id of the lists",
            )
    found = files.video_files(folder)
    subsets = files.read_subsets(folder, {name for ids in splits.values() for name in ids})
    videos = []
    for split, ids in splits.items():
        for name in ids:
            captions, of_language = joined({language: texts[language][name] for language in spoken})
            uri, start, end = location(folder, found, name)
            row = Video(name, uri, split, captions, start, end, subsets.get(name, ()), of_language)
            videos.append(row)
    rule = counted("every caption of a test video is a query", spoken)
    return Manifest(task, Protocol("vatex", "25,991 / 1,500 / 1,500", rule, validation), tuple(videos))


def location(folder: str, found: Mapping[str, str], name: str) -> tuple[str, float | None, float | None]:
    """The file of a video, and the first and last second of it in a file that is not cut.

    Args:
        folder: The folder of the collection.
        found: The files by stem, from :func:`components.benchmarks.files.video_files`.
        name: The id with its seconds.
    """
    if (parts := IDS.fullmatch(name)) is None:
        return files.uri_of(folder, found, name), None, None
    uri, span = files.part_of(folder, found, name, parts["name"], (float(parts["start"]), float(parts["end"])))
    return uri, *span


def _files(options: Options) -> tuple[AnnotationFile, ...]:
    sources = {"en": (REFERENCE, TRAINING), "zh": (TRAINING,)}
    spoken = languages("", options, tuple(FIELDS))
    return (
        *(AnnotationFile(names) for names in dict.fromkeys(sources[language] for language in spoken)),
        AnnotationFile((VALIDATION,), needed="zh" in spoken),
        AnnotationFile(("test_list.txt",)),
        AnnotationFile(("train_list.txt",), needed=False),
        AnnotationFile(("val_list.txt",), needed=False),
    )


def _published(options: Options) -> Published:
    videos = {split: count for split, count in VIDEOS.items() if split != "val" or "val_share" not in options}
    each = CAPTIONS * len(languages("", options, tuple(FIELDS)))
    # Training captions are not compared if some of the videos are held out.
    known = videos if "val" in videos else {"test": VIDEOS["test"]}
    return Published(IDS, videos, {split: each * count for split, count in known.items()})


READER = Reader(read=read, files=_files, published=_published)


class _PublishedFiles:
    """The entries of the published files of a folder by id. Each file is read at most once.

    Args:
        folder: The folder of the collection.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._read: dict[str, dict[str, Mapping[str, object]]] = {}

    def __getitem__(self, file: str) -> dict[str, Mapping[str, object]]:
        if file not in self._read:
            self._read[file] = _entries(storage.join(self._folder, file))
        return self._read[file]


def _splits(task: str, folder: str, options: Options, published: _PublishedFiles) -> tuple[dict[str, list[str]], str]:
    """The ids of each split, and how validation is chosen."""
    at = {name: storage.join(folder, f"{name}_list.txt") for name in ("train", "val", "test")}
    test = _ids(at["test"])
    train = _ids(at["train"]) if storage.exists(at["train"]) else list(published[TRAINING])
    if "val_share" in options:
        share = files.val_share(task, options)
        val = files.held_out(train, share)
        chosen = {"train": [name for name in train if name not in val], "val": [n for n in train if n in val]}
        return {**chosen, "test": test}, f"{share:g} of the training videos, lowest SHA-256 of the id"
    if storage.exists(at["val"]):
        return {"train": train, "val": _ids(at["val"]), "test": test}, "val_list.txt"
    if not storage.exists(storage.join(folder, VALIDATION)):
        raise DataError(
            "no validation videos",
            where=folder,
            expected=f"val_list.txt or {VALIDATION}",
            cure=f"put one of them there, or set tasks.{task}.options.val_share to validate on training videos",
        )
    tested = set(test)
    val_ids = [name for name in published[VALIDATION] if name not in tested]
    return {"train": train, "val": val_ids, "test": test}, f"{VALIDATION} without the test videos"


def _ids(where: str) -> list[str]:
    return files.checked_ids(where, files.read_lines(where))


def _captions(folder: str, language: str, published: _PublishedFiles) -> dict[str, list[str]]:
    """The captions of each video in one language."""
    reference = storage.join(folder, REFERENCE)
    if language == "en" and storage.exists(reference):
        content = files.read_json(reference, dict)
        return {name: _texts(f"{reference} {name}", texts) for name, texts in content.items()}
    captions: dict[str, list[str]] = {}
    for file in (TRAINING, VALIDATION):
        where = storage.join(folder, file)
        for name, entry in published[file].items():
            if name in captions:
                raise DataError("video id occurs twice", where=where, found=name, expected="each id in one file, once")
            captions[name] = _texts(f"{where} {name} {FIELDS[language]}", entry.get(FIELDS[language]))
    return captions


def _entries(where: str) -> dict[str, Mapping[str, object]]:
    """The entries of a published file by id."""
    entries: dict[str, Mapping[str, object]] = {}
    for number, entry in enumerate(files.read_json(where, list), 1):
        if not isinstance(entry, dict) or not isinstance(name := entry.get("videoID"), str):
            raise DataError("not in the form of VATEX", where=f"{where} entry {number}", found=entry, expected=FORM)
        if name in entries:
            raise DataError(
                "video id occurs twice", where=f"{where} entry {number}", found=name, expected="one entry per video"
            )
        files.check_id(f"{where} entry {number}", name)
        entries[name] = entry
    return entries


def _texts(where: str, texts: object) -> list[str]:
    if not isinstance(texts, list) or not texts:
        raise DataError("no list of captions", where=where, found=texts, expected="a list of texts")
    return [text_of(where, text) for text in texts]
