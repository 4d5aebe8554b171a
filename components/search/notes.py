"""What a person must know about an index before they trust its answers: what it was made from, compared with now."""

from __future__ import annotations

from pathlib import Path

from components import storage
from components.backbones import mini
from components.errors import DataError, RegistryError
from components.frames import schema
from components.frames.card import read_card as read_store_card
from components.layout import Layout
from components.search.card import CARD, IndexCard
from components.tracking.alias import alias_holder
from components.tracking.record import read_registry_record
from components.tracking.settings import TrackingSettings

# The collections that the mini backbone was made for.
EMBEDDED = ("shapes-clips", "shapes-stories")


def check_index(card: IndexCard, layout: Layout, settings: TrackingSettings) -> list[str]:
    """Compares an index with the frame store and the champion of its task.

    Args:
        card: The card of the task's index.
        layout: The project's paths.
        settings: The ``tracking`` block of params.yaml.

    Returns:
        What a person should know, in one line each.

    Raises:
        DataError: The frame store has changed since. The index may rank videos that are gone, and lacks new ones.
    """
    if difference := store_difference(card, layout):
        raise DataError(difference, where=layout.index(card.task), cure=_cure(card))
    return [
        note for note in (_champion_note(card, layout, settings), shapes_note(card.backbone.model, card.task)) if note
    ]


def store_difference(card: IndexCard, layout: Layout) -> str | None:
    """Why an index does not fit the task's frame store. None if it does, or if there is no store to compare with."""
    folder = layout.frames(card.task)
    if card.store is None or not storage.exists(folder / schema.CARD):
        return None
    if read_store_card(folder).fingerprint == card.store:
        return None
    return "the index is of another frame store: videos were added, changed or removed since"


def shapes_note(model: str, task: str) -> str | None:
    """A warning if the mini backbone is used on videos of another kind than it was made for."""
    if model != mini.NAME or task in EMBEDDED:
        return None
    return (
        f"the backbone `{mini.NAME}` knows only the moving shapes of the embedded collections, so the order of other "
        "videos means nothing: give the task a real CLIP in params.yaml, for example "
        f"tasks.{task}.backbone: {{model: ViT-B-32, pretrained: openai}}, then run "
        f"python pipelines/index.py --task {task}"
    )


def files_of(layout: Layout, task: str) -> tuple[object, ...]:
    """Changes when the task's index or frame store is replaced. It costs two look-ups in the file system."""
    return tuple(_identity(folder) for folder in (layout.index(task) / CARD, layout.frames(task) / schema.CARD))


def _identity(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _champion_note(card: IndexCard, layout: Layout, settings: TrackingSettings) -> str | None:
    """A warning if an index was made with a champion that is no longer the champion."""
    if card.version is None:
        return None  # somebody chose the adapter
    record = layout.champion_record(card.task)
    try:
        holder = alias_holder(layout.root, settings, card.task)
        if holder is None and record.exists():
            holder = read_registry_record(record).champion.version
    except RegistryError as error:
        return f"whether version {card.version} is still the champion cannot be asked: {error}"
    if holder in (None, card.version):
        return None
    return f"the index was made with version {card.version}, but version {holder} is the champion: {_cure(card)}"


def _cure(card: IndexCard) -> str:
    return f"run python pipelines/index.py --task {card.task}"
