"""The adapter that indexes a collection: the champion, or another one where there is no champion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components import provenance
from components.adapters.card import TrainingFacts, read_card
from components.adapters.file import save_adapter
from components.backbones.clip import Backbone
from components.backbones.settings import BackboneSettings
from components.errors import RegistryError
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.build import build
from components.params import Params
from components.search.backbones import task_backbone
from components.task import TaskSettings
from components.tracking.champion import current_champion
from components.tracking.record import Champion


@dataclass(frozen=True)
class Source:
    """An adapter and what the card of the index says about it.

    Attributes:
        folder: The adapter's folder.
        sha256: Hash of its weights file.
        method: Its entry in params.yaml.
        version: Its version in the registry, None if it is not registered.
        seed: The seed of its training, None if it is not registered.
    """

    folder: Path
    sha256: str
    method: str
    version: str | None = None
    seed: int | None = None


def of_champion(layout: Layout, champion: Champion) -> Source:
    """The champion of the task's registered model.

    Raises:
        AdapterError: Its folder holds no adapter.
        RegistryError: Its folder holds another adapter.
    """
    folder = layout.root / champion.folder
    found = read_card(folder).sha256
    if found != champion.sha256:
        raise RegistryError(
            "not the champion's adapter",
            where=folder,
            found=found,
            expected=champion.sha256,
            cure="run the register stage again",
        )
    return Source(folder, champion.sha256, champion.method, champion.version, champion.seed)


def read_source(folder: Path) -> Source:
    """An adapter in a folder, which need not be registered.

    Raises:
        AdapterError: The folder holds no adapter.
    """
    card = read_card(folder)
    return Source(folder, card.sha256, card.label)


def write_plain(
    layout: Layout, task: str, settings: TaskSettings, backbone: Backbone, loaded: BackboneSettings
) -> Source:
    """Writes an adapter without parameters: the plain backbone, which ``loaded`` loads."""
    folder = layout.plain_adapter(task)
    method = build("zero_shot", {}, backbone, frames=settings.frames, words=settings.words)
    facts = TrainingFacts(backbone=loaded)
    save_adapter(folder, method, task=task, provenance=provenance.collect(layout.root), extra=facts)
    return read_source(folder)


def find_source(
    layout: Layout, params: Params, task: str, adapter: Path | None, store: FrameStore
) -> tuple[Source, str]:
    """The adapter that embeds a task: a given one, the champion, or the plain backbone if there are no captions.

    Args:
        layout: The paths of the project.
        params: The settings.
        task: Key of the task in params.yaml.
        adapter: The folder of the adapter to use, None for the champion.
        store: The task's frames.

    Returns:
        The adapter, and what a person should know about it, which may be empty.

    Raises:
        ReelTuneError: There is no such adapter, or no champion.
    """
    if adapter is not None:
        return read_source(adapter), ""
    if store.manifest.is_only_searched:
        plain = task_backbone(params, task, layout.root)
        return write_plain(layout, task, params.task(task), plain, params.backbone_of(task)), ""
    current = current_champion(layout, params.tracking, task)
    return of_champion(layout, current.champion), current.note
