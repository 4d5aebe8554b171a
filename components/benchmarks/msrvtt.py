"""MSR-VTT in the files that CLIP4Clip's family of loaders reads (Xu et al., CVPR 2016; test set 1k-A: JSFusion).

``MSRVTT_train.9k.csv`` or ``MSRVTT_train.7k.csv``: one ``video_id`` a line. ``MSRVTT_JSFUSION_test.csv``:
``key,vid_key,video_id,sentence``, one caption per video. ``MSRVTT_data.json``: ``videos`` and ``sentences``, from which
training takes every caption. Videos: ``videos/<video_id>.mp4`` or ``.webm``.

The published splits validate on the test set. Here validation is ``MSRVTT_val.csv`` (one ``video_id`` a line) where
that file stands, else a fixed share of the training videos, which are then not trained on; of a validation video the
first caption counts, as the test has one caption per video.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from components import storage
from components.benchmarks import files
from components.benchmarks.base import Manifest, Protocol, Video, first_few
from components.errors import ConfigError, DataError

DATA = "MSRVTT_data.json"
VALIDATION = "MSRVTT_val.csv"
TEST = "MSRVTT_JSFUSION_test.csv"


def read(task: str, folder: str, options: dict[str, Any]) -> Manifest:
    """The manifest of a folder in MSR-VTT's format.

    Args:
        task: name of the task.
        folder: path or URI.
        options: ``split``: 9k (default) or 7k; ``val_share``: share of the training videos that validate where there
            is no validation file (default 0.05).

    Raises:
        ConfigError: an unknown option.
        DataError: a file is missing or damaged, or a split names a video without captions.
    """
    files.check_options(task, options, ("split", "val_share"))
    train_file = f"MSRVTT_train.{_variant(task, options)}.csv"
    splits, validation = _splits(task, folder, train_file, options)
    captions = _captions(storage.join(folder, DATA), (name for ids in splits.values() for name in ids))
    tests: dict[str, str] = {}
    for row in files.read_csv(storage.join(folder, TEST), ("video_id", "sentence")):
        if row["video_id"] in tests:
            raise DataError("video id stands twice", where=storage.join(folder, TEST), found=row["video_id"])
        tests[row["video_id"]] = row["sentence"]
    found = files.video_files(folder)
    subsets = files.read_subsets(folder, {*splits["train"], *splits["val"], *tests})

    def video(name: str, split: str, texts: Iterable[str]) -> Video:
        return Video(name, files.uri_of(folder, found, name), split, tuple(texts), subsets=subsets.get(name, ()))

    videos = [video(name, "train", captions[name]) for name in splits["train"]]
    videos += [video(name, "val", captions[name][:1]) for name in splits["val"]]
    videos += [video(name, "test", [sentence]) for name, sentence in tests.items()]
    files.require_some_file(folder, found, {row.uri for row in videos})
    protocol = Protocol(
        benchmark="msrvtt",
        variant=f"{_variant(task, options)} / 1k-A",
        caption_rule="one caption per test video",
        validation=validation,
    )
    return Manifest(task, protocol, tuple(videos))


def _variant(task: str, options: dict[str, Any]) -> str:
    variant = str(options.get("split", "9k"))
    if variant not in ("9k", "7k"):
        where = f"params.yaml tasks.{task}.options.split"
        raise ConfigError("unknown split of MSR-VTT", where=where, found=variant, expected="9k or 7k")
    return variant


def _splits(task: str, folder: str, train_file: str, options: dict[str, Any]) -> tuple[dict[str, list[str]], str]:
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
    return [row["video_id"] for row in files.read_csv(where, ("video_id",))]


def _captions(where: str, wanted: Iterable[str]) -> dict[str, list[str]]:
    content = files.read_json(where, dict)
    try:
        listed = {str(row["video_id"]) for row in content["videos"]}
        pairs = [(str(row["video_id"]), str(row["caption"]).strip()) for row in content["sentences"]]
    except (KeyError, TypeError):
        raise DataError(
            "not of MSR-VTT's form",
            where=where,
            expected="{'videos': [{'video_id'}], 'sentences': [{'video_id', 'caption'}]}",
        ) from None
    captions: dict[str, list[str]] = {}
    for name, caption in pairs:
        captions.setdefault(name, []).append(caption)
    if unlisted := sorted(set(captions) - listed):
        raise DataError(
            "captions of videos without an entry",
            where=where,
            found=first_few(unlisted),
            expected="an entry in 'videos'",
        )
    if missing := [name for name in dict.fromkeys(wanted) if name not in captions]:
        raise DataError(
            "training or validation videos without a caption",
            where=where,
            found=first_few(missing),
            expected="at least one row of 'sentences' for each",
        )
    return captions
