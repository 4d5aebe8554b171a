"""The captions stage of one task: captions of its training frames, or a note that it has none."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import storage
from components.captions import CAPTIONERS
from components.captions.file import CARD, FILE, FrameCaptions, add_captions, read_captions
from components.captions.make import make_captions
from components.captions.table import captions_of_table
from components.cluster import RaySettings
from components.errors import DataError
from components.fingerprint import code_of_plugin
from components.frames.store import FrameStore
from components.layout import Layout
from components.liveness import only_one
from components.task import CaptionSettings, TaskSettings

log = logging.getLogger(__name__)

# Raised when the same frames give a captioner another call than before. All captions are then made again, once.
RULES = 1


def caption(root: Path, name: str, task: TaskSettings, methods: Mapping[str, bool], ray: RaySettings) -> str:
    """Publishes ``outputs/captions/<task>/``: the captions of a task's training frames, and a file per method.

    A training depends on the file of its method, ``for-<method>.json``, so captions that a method does not use make its
    adapters no older. A task without ``captions`` in its settings has only these files.

    Args:
        root: The project's folder, absolute.
        name: The task's key in params.yaml.
        task: The task's settings.
        methods: For each key of ``methods``, whether it trains with captions of frames.
        ray: The size of the local cluster.

    Returns:
        What is there now, for a terminal.

    Raises:
        ReelTuneError: As :func:`components.captions.make.make_captions` and
            :func:`components.captions.table.captions_of_table`. Another process captions this task, or the store has no
            training videos.
    """
    layout = Layout(root)
    folder, work = layout.captions(name), layout.captions_work(name)
    aside = work / "published"
    work.mkdir(parents=True, exist_ok=True)
    with only_one(work, "another process captions the frames of this task"):
        shutil.rmtree(aside, ignore_errors=True)
        card, used = None, any(methods.values())
        if task.captions is None or not used:
            _keep(folder, aside)
            if used and (aside / CARD).exists():
                card = read_captions(aside).card
        else:
            store = FrameStore(layout.frames(name))
            source = _source(root, task, task.captions)
            found = _found(folder, work, store, source, root, task, ray)
            aside.mkdir()
            card = add_captions(aside, name, store.training_fingerprint, source, found)
        for method, uses in methods.items():
            content = {"captions": card.fingerprint if card is not None and uses else None}
            storage.write_bytes(aside / f"for-{method}.json", (json.dumps(content) + "\n").encode())
        storage.publish_folder(aside, folder)
        for left_over in [path for path in work.iterdir() if path.is_dir()]:
            shutil.rmtree(left_over)
    if card is None:
        return f"{name}: no captions of frames are needed (no tasks.{name}.captions, or no method has captions: true)"
    return f"{name}: {card.captions} captions of the frames of {card.videos} training videos in {folder}"


def _keep(folder: Path, aside: Path) -> None:
    """Captions that are there already stay, since they may have taken hours."""
    aside.mkdir()
    for name in (FILE, CARD):
        if (folder / name).exists():
            shutil.copyfile(folder / name, aside / name)


def _source(root: Path, task: TaskSettings, settings: CaptionSettings) -> dict[str, Any]:
    """What decides the captions of given frames."""
    if settings.table is not None:
        content = storage.read_bytes(_table(root, task, settings.table))
        return {"table": settings.table, "sha256": hashlib.sha256(content).hexdigest()}
    assert settings.captioner is not None
    target = CAPTIONERS.target(settings.captioner, "captions.captioner")
    code = code_of_plugin(target).sha256
    # How frames are batched may change a captioner's rounding.
    decides = {"captioner": target, "options": settings.options, "batch_size": settings.batch_size, "code": code}
    return {**decides, "rules": RULES}


def _found(
    folder: Path,
    work: Path,
    store: FrameStore,
    source: dict[str, Any],
    root: Path,
    task: TaskSettings,
    ray: RaySettings,
) -> FrameCaptions:
    """The captions of all training frames: those that are published already, or else from the source."""
    ids = store.ids("train")
    if not ids:
        raise DataError("no training videos to caption", where=store.uri, expected="a decoded train split")
    assert task.captions is not None
    if (folder / CARD).exists():
        try:
            published = read_captions(folder)
        except DataError as error:
            log.warning("%s: they are made again", error)
        else:
            if (published.card.store, published.card.source) == (store.training_fingerprint, source):
                return published.of_video
    if task.captions.table is not None:
        return captions_of_table(_table(root, task, task.captions.table), store, ids)
    key = hashlib.sha256(json.dumps([store.training_fingerprint, source], sort_keys=True).encode()).hexdigest()
    parts = work / key[:12]
    for left_over in [path for path in work.iterdir() if path.is_dir() and path != parts]:
        shutil.rmtree(left_over)
    return make_captions(store, ids, task.captions, parts, ray)


def _table(root: Path, task: TaskSettings, name: str) -> str:
    return storage.join(storage.resolve(root, task.root), *name.split("/"))
