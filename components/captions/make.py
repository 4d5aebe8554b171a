"""Captions made by a captioner, with Ray Data: one row of the data set is one part, and one actor makes it.

A part is 16 videos. Its captions are written aside and renamed into the working state, so a part is complete or
missing, and an interrupted run continues with the next one. Which frames go together into a call does not depend on the
number of actors. Frames never pass through the object store.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.benchmarks.parse import not_unicode, text_of
from components.captions import CAPTIONERS, Captioner
from components.captions.file import FrameCaptions, read_table, write_table
from components.cluster import RaySettings, quiet_data, ray_session, room
from components.errors import ConfigError, DataError, ReelTuneError, one_line
from components.frames.jpeg import decode_frames
from components.frames.store import FrameStore
from components.samecode import on_worker
from components.task import CaptionSettings
from components.video import is_unicode

log = logging.getLogger(__name__)

PART_VIDEOS = 16

# A part on a slow captioner, its start included, may take this long before Ray Data says that nothing moves.
NO_PROGRESS_SECONDS = 6 * 3600


@dataclass(frozen=True)
class Work:
    """What every actor knows.

    Args:
        store: The path or URI of the frame store.
        folder: Where parts go. All machines see it under this path.
        captioner: ``"package.module:Class"``.
        options: Its keyword arguments, as JSON.
        batch_size: Frames per call.
    """

    store: str
    folder: Path
    captioner: str
    options: str
    batch_size: int

    def part(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:05d}.parquet"


def make_captions(
    store: FrameStore, ids: Sequence[str], settings: CaptionSettings, folder: Path, ray: RaySettings
) -> FrameCaptions:
    """The captions of all frames of the videos ``ids``. Parts that an earlier run made are read.

    Args:
        store: The frames.
        ids: At least one decoded video.
        settings: The task's settings, with a captioner.
        folder: The working state of exactly these frames and this captioner.
        ray: The size of the local cluster. Ray starts only if there is a part to make.

    Raises:
        ConfigError: The captioner cannot be loaded, or there are no GPUs for it.
        DataError: A frame is damaged, or the captioner raises or returns something else than a text per frame.
    """
    assert settings.captioner is not None
    options, target = json.dumps(settings.options, sort_keys=True), CAPTIONERS.target(settings.captioner)
    work = Work(store.uri, folder, target, options, settings.batch_size)
    parts = [list(ids[start : start + PART_VIDEOS]) for start in range(0, len(ids), PART_VIDEOS)]
    folder.mkdir(parents=True, exist_ok=True)
    todo = [number for number, names in enumerate(parts) if _made(work, number, names) is None]
    if todo:
        log.info("%s: %d of %d parts to caption with %s", store.card.task, len(todo), len(parts), target)
        with ray_session(ray):
            _check_gpus(settings)
            _caption(store.card.task, work, [(number, parts[number]) for number in todo], settings)
    found: dict[str, tuple[str, ...]] = {}
    for number, names in enumerate(parts):
        made = _made(work, number, names)
        if made is None:
            raise DataError(
                "a part is not what its actor wrote",
                where=work.part(number),
                cure="make sure that all machines share this folder, and run it again",
            )
        found |= made
    return found


def _made(work: Work, number: int, names: Sequence[str]) -> FrameCaptions | None:
    """The captions of a finished part. None if it is missing or damaged."""
    path = work.part(number)
    if not path.is_file():
        return None
    try:
        found = read_table(path)
    except DataError as error:
        log.warning("%s: it is made again", error)
        return None
    return found if list(found) == list(names) else None


def _check_gpus(settings: CaptionSettings) -> None:
    import ray

    if settings.gpus > ray.cluster_resources().get("GPU", 0):
        raise ConfigError(
            "no GPUs for a captioner",
            where="captions.gpus",
            found=settings.gpus,
            expected=f"at most what {room('GPU')}",
        )


def _caption(task: str, work: Work, parts: Sequence[tuple[int, list[str]]], settings: CaptionSettings) -> None:
    """Makes parts on the connected Ray cluster, and logs each."""
    start, frames = time.monotonic(), 0
    for done, row in enumerate(_rows(work, parts, settings), 1):
        if row["error"]:
            raise DataError(row["error"])
        frames += row["frames"]
        rate = frames / max(time.monotonic() - start, 1e-9)
        log.info("%s: %d of %d parts, %d frames, %.1f frames per second", task, done, len(parts), frames, rate)


def _rows(work: Work, parts: Sequence[tuple[int, list[str]]], settings: CaptionSettings) -> Iterator[dict[str, Any]]:
    import ray.data

    quiet_data().execution_no_progress_timeout_s = NO_PROGRESS_SECONDS
    items = [{"number": number, "names": names} for number, names in parts]
    actors = min(settings.actors, len(parts))
    made = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _actor_class(work),
        # Fewer actors than wanted do the same work where the cluster has no room for all.
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
        num_gpus=settings.gpus or None,
    )
    yield from made.iter_rows()


def _actor_class(work: Work) -> type:
    """The class of the actors. Ray sends it as code, which imports this module only after a check of its hash."""
    make = on_worker(_part_row)

    class Actor:
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            return make(row, work)

    return Actor


def _part_row(row: dict[str, Any], work: Work) -> dict[str, Any]:
    """Makes a part. Ray would wrap an error into a hundred lines of its own, so the error is part of the answer."""
    number = int(row["number"])
    try:
        captions = caption_videos(_store(work.store), [str(name) for name in row["names"]], work)
        write_table(work.part(number), captions)
    except ReelTuneError as error:
        return {"number": number, "frames": 0, "error": str(error)}
    return {"number": number, "frames": sum(map(len, captions.values())), "error": ""}


@functools.lru_cache(maxsize=1)
def _store(uri: str) -> FrameStore:
    """The store of an actor, which compares each shard with its hash once."""
    return FrameStore(uri)


def caption_videos(store: FrameStore, names: Sequence[str], work: Work) -> FrameCaptions:
    """The captions of a part's frames, made in this process.

    Raises:
        ConfigError: The captioner cannot be loaded.
        DataError: As :func:`make_captions`.
    """
    captioner = _captioner(work.captioner, work.options)
    frames: dict[tuple[int, ...], list[tuple[str, int, NDArray[np.uint8]]]] = {}
    found: dict[str, list[str]] = {}
    for video in store.read(names):
        found[video.video_id] = [""] * len(video.frames)
        for number, picture in enumerate(decode_frames(video.frames)):
            frames.setdefault(picture.shape, []).append((video.video_id, number, picture))
    # Frames of one size go into a call, whichever videos they are from.
    for of_size in frames.values():
        for start in range(0, len(of_size), work.batch_size):
            batch = of_size[start : start + work.batch_size]
            pictures = np.stack([picture for _, _, picture in batch])
            for (name, number, _), text in zip(batch, _texts(captioner, pictures, work.captioner), strict=True):
                where = f"{work.captioner}: frame {number} of {name}"
                if isinstance(text, str) and not is_unicode(text):
                    raise not_unicode(where, text)
                found[name][number] = text_of(where, text)
    return {name: tuple(found[name]) for name in names}


@functools.lru_cache(maxsize=1)
def _captioner(target: str, options: str) -> Captioner:
    """This process's captioner. It is kept for all parts."""
    made = CAPTIONERS.get(target)
    try:
        return made(**json.loads(options))
    except ReelTuneError:
        raise
    except Exception as error:  # a captioner may raise anything
        raise ConfigError("the captioner does not start", where=target, found=_line(error)) from error


def _texts(captioner: Captioner, pictures: NDArray[np.uint8], target: str) -> Sequence[object]:
    """What the captioner returns for frames ``uint8[N, H, W, 3]``: N objects."""
    try:
        texts: object = captioner(pictures)
    except ReelTuneError:
        raise
    except Exception as error:  # a captioner may raise anything
        shape = "x".join(map(str, pictures.shape))
        raise DataError(f"the captioner raised on frames of {shape}", where=target, found=_line(error)) from error
    if isinstance(texts, str) or not isinstance(texts, Sequence) or len(texts) != len(pictures):
        kind = type(texts).__name__
        sized = isinstance(texts, Sequence) and not isinstance(texts, str)
        raise DataError(
            "the captioner returned something else than a text per frame",
            where=target,
            found=f"{len(texts)} objects" if sized else kind,  # type: ignore[arg-type]
            expected=f"a list of {len(pictures)} texts",
        )
    return texts


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error, 300)}"
