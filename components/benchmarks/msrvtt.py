"""MSR-VTT in the files that CLIP4Clip's family of loaders reads (Xu et al., CVPR 2016; test set 1k-A: JSFusion).

``MSRVTT_train.9k.csv`` or ``MSRVTT_train.7k.csv`` has one ``video_id`` per line. ``MSRVTT_JSFUSION_test.csv`` has the
columns ``key,vid_key,video_id,sentence``, with one caption per video. ``MSRVTT_data.json`` has ``videos`` and
``sentences``, from which training takes every caption. Videos: ``videos/<video_id>.mp4`` or ``.webm``.

The papers that use these splits validate on the test set. Here validation uses ``MSRVTT_val.csv`` (one ``video_id`` per
line) if that file exists, else a fixed fraction of the training videos, which are then not trained on. Only the first
caption of a validation video counts, since a test video has one caption.

``split: full`` is the official split of the data set, read from ``split`` of each entry of ``videos`` (``train``,
``validate`` or ``test``). It has 2,990 test videos, and all 20 captions of each are queries. It needs only
``MSRVTT_data.json``.

``languages`` adds captions in other languages, which are in ``captions_<code>.json`` (:func:`components.benchmarks.
languages.read_captions`). A test video needs one in each language, and each language has a row in the scorecard.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from components import storage
from components.benchmarks import files
from components.benchmarks.interface import AnnotationFile, Options, Published, Reader
from components.benchmarks.languages import counted, joined, languages, read_captions
from components.benchmarks.parse import name_of
from components.errors import ConfigError, DataError
from components.manifest import Manifest, Protocol, first_few
from components.video import Video

DATA = "MSRVTT_data.json"
FORM = "{'videos': [{'video_id'}], 'sentences': [{'video_id', 'caption'}]}"
VALIDATION = "MSRVTT_val.csv"
TEST = "MSRVTT_JSFUSION_test.csv"
TRANSLATED = "captions_{}.json"

# By split, then by id.
Texts = dict[str, dict[str, list[str]]]

FULL = "full"
# The names of our splits in the file of the data set.
FULL_SPLITS = {"train": "train", "validate": "val", "val": "val", "test": "test"}

# The test videos of the official split, video7010 to video9999. Those of 1k-A are among them.
TEST_IDS = re.compile(r"video(70[1-9]\d|7[1-9]\d\d|[89]\d{3})")
PUBLISHED = {
    "9k": Published(TEST_IDS, {"train": 9000, "test": 1000}, {"test": 1000}),
    "7k": Published(TEST_IDS, {"train": 7010, "test": 1000}, {"test": 1000}),
    FULL: Published(
        TEST_IDS,
        {"train": 6513, "val": 497, "test": 2990},
        {"train": 130_260, "val": 9940, "test": 59_800},
    ),
}


def read(task: str, folder: str, options: Options) -> Manifest:
    """Reads the manifest of a folder in the format of MSR-VTT.

    Args:
        task: The name of the task.
        folder: The path or URI of the folder.
        options: ``split`` is 9k (default), 7k or full. ``val_share`` is the fraction of the training videos for
            validation if there is no validation file (default 0.05, not for full). ``languages`` is ``en`` (default)
            or several codes such as ``en, de, zh``.

    Raises:
        ConfigError: An option is unknown.
        DataError: A file is missing or damaged, or a split names a video without captions.
    """
    files.check_options(task, options, ("split", "val_share", "languages"))
    spoken = languages(task, options)
    if _variant(task, options) == FULL:
        texts, protocol = _full_splits(folder)
    else:
        texts, protocol = _listed_splits(task, folder, options)
    found = files.video_files(folder)
    subsets = files.read_subsets(folder, {name for split in texts.values() for name in split})
    single = _variant(task, options) != FULL
    translated = {code: texts if code == "en" else _translated(folder, code, texts, single) for code in spoken}
    videos = []
    for split, members in texts.items():
        for name in members:
            captions, of_language = joined({code: translated[code][split].get(name, []) for code in spoken})
            uri = files.uri_of(folder, found, name)
            videos.append(Video(name, uri, split, captions, subsets=subsets.get(name, ()), languages=of_language))
    protocol = replace(protocol, caption_rule=counted(protocol.caption_rule, spoken))
    return Manifest(task, protocol, tuple(videos))


def _files(options: Options) -> tuple[AnnotationFile, ...]:
    data, variant = AnnotationFile((DATA,)), _variant("", options)
    others = tuple(AnnotationFile((TRANSLATED.format(code),)) for code in languages("", options) if code != "en")
    if variant == FULL:
        return (data, *others)
    lists = AnnotationFile((f"MSRVTT_train.{variant}.csv",)), AnnotationFile((TEST,))
    return (data, *lists, AnnotationFile((VALIDATION,), needed=False), *others)


def _published(options: Options) -> Published:
    published, spoken = PUBLISHED[_variant("", options)], languages("", options)
    if spoken == ("en",):
        return published
    # How many captions a translation has of other videos is not known.
    return replace(published, captions={"test": len(spoken) * published.captions["test"]})


READER = Reader(read=read, files=_files, published=_published)


def _translated(folder: str, code: str, texts: Texts, single: bool) -> Texts:
    """The captions in another language, by split.

    Args:
        folder: The folder of the collection.
        code: The language.
        texts: The English captions.
        single: Whether a test video has one caption, and a validation video its first.
    """
    where = storage.join(folder, TRANSLATED.format(code))
    captions = read_captions(where)
    if missing := [name for name in texts["test"] if name not in captions]:
        raise DataError(
            "test videos without a caption",
            where=where,
            found=first_few(missing),
            expected="a caption of every test video",
            cure=f"add them, or take {code} out of the option languages",
        )
    if several := [name for name in texts["test"] if single and len(captions[name]) > 1]:
        raise DataError(
            "test videos with several captions",
            where=where,
            found=first_few(several),
            expected=f"the one that translates the caption in {TEST}",
            cure="remove the others, or set the option split to full",
        )
    most = {"train": None, "val": 1 if single else None, "test": None}
    return {
        split: {name: captions[name][: most[split]] for name in members if name in captions}
        for split, members in texts.items()
    }


def _variant(task: str, options: Options) -> str:
    variant = str(options.get("split", "9k"))
    if variant not in PUBLISHED:
        where = f"params.yaml tasks.{task}.options.split"
        raise ConfigError("unknown split of MSR-VTT", where=where, found=variant, expected="9k, 7k or full")
    return variant


def _listed_splits(task: str, folder: str, options: Options) -> tuple[Texts, Protocol]:
    """The captions of each video by split, from the lists, and the protocol."""
    variant = _variant(task, options)
    splits, validation = _splits(task, folder, f"MSRVTT_train.{variant}.csv", options)
    captions = _captions(storage.join(folder, DATA), (name for ids in splits.values() for name in ids))
    rows = files.read_csv(storage.join(folder, TEST), ("video_id", "sentence"))
    files.checked_ids(storage.join(folder, TEST), ((line, row["video_id"]) for line, row in rows))
    texts = {
        "train": {name: captions[name] for name in splits["train"]},
        "val": {name: captions[name][:1] for name in splits["val"]},
        "test": {row["video_id"]: [row["sentence"]] for _, row in rows},
    }
    return texts, Protocol(
        benchmark="msrvtt",
        variant=f"{variant} / 1k-A",
        caption_rule="one caption per test video",
        validation=validation,
    )


def _full_splits(folder: str) -> tuple[Texts, Protocol]:
    """The captions of each video by split, from the data set's file, and the protocol."""
    where = storage.join(folder, DATA)
    entries = _content(where)["videos"]
    names = files.checked_ids(where, ((number, entry["video_id"]) for number, entry in enumerate(entries, 1)))
    splits = [FULL_SPLITS.get(str(entry.get("split"))) for entry in entries]
    if unknown := [name for name, split in zip(names, splits, strict=True) if split is None]:
        raise DataError(
            "entry without a known split",
            where=where,
            found=first_few(unknown),
            expected="'split' of each entry of 'videos' one of " + ", ".join(FULL_SPLITS),
        )
    captions = _captions(where, names)
    texts: Texts = {"train": {}, "val": {}, "test": {}}
    for name, split in zip(names, splits, strict=True):
        texts[str(split)][name] = captions[name]
    return texts, Protocol(
        benchmark="msrvtt",
        variant=FULL,
        caption_rule="every caption of a test video is a query",
        validation="the data set's own validation videos",
    )


def _splits(task: str, folder: str, train_file: str, options: Options) -> tuple[dict[str, list[str]], str]:
    train = _ids(storage.join(folder, train_file))
    if storage.exists(storage.join(folder, VALIDATION)):
        return {"train": train, "val": _ids(storage.join(folder, VALIDATION))}, VALIDATION
    share = files.val_share(task, options)
    val = files.held_out(train, share)
    splits = {
        "train": [name for name in train if name not in val],
        "val": [name for name in train if name in val],
    }
    return splits, f"{share:g} of the training videos, lowest SHA-256 of the id, first caption"


def _ids(where: str) -> list[str]:
    return files.checked_ids(where, ((line, row["video_id"]) for line, row in files.read_csv(where, ("video_id",))))


def _content(where: str) -> dict[str, Any]:
    content = files.read_json(where, dict)
    for key, fields in (("videos", ("video_id",)), ("sentences", ("video_id", "caption"))):
        rows = content.get(key)
        if not isinstance(rows, list):
            raise DataError("not in the form of MSR-VTT", where=where, found=sorted(content), expected=FORM)
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or any(name not in row for name in fields):
                raise DataError("not in the form of MSR-VTT", where=f"{where} {key} {number}", found=row, expected=FORM)
            row["video_id"] = name_of(f"{where} {key} {number}", row["video_id"])
    return dict(content)


def _captions(where: str, wanted: Iterable[str]) -> dict[str, list[str]]:
    content = _content(where)
    listed = {row["video_id"] for row in content["videos"]}
    pairs = [(row["video_id"], row["caption"]) for row in content["sentences"]]
    if empty := [name for name, caption in pairs if not isinstance(caption, str) or not caption.strip()]:
        raise DataError("empty caption", where=where, found=first_few(empty), expected="a text in every 'caption'")
    captions: dict[str, list[str]] = {}
    for name, caption in pairs:
        captions.setdefault(name, []).append(caption.strip())
    if unlisted := sorted(set(captions) - listed):
        raise DataError(
            "captions of videos without an entry",
            where=where,
            found=first_few(unlisted),
            expected="an entry in 'videos'",
        )
    if missing := [name for name in dict.fromkeys(wanted) if name not in captions]:
        raise DataError(
            "videos without a caption",
            where=where,
            found=first_few(missing),
            expected="at least one row of 'sentences' for each",
        )
    return captions
