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
from components.layout import Layout
from components.methods.build import build
from components.task import TaskSettings
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
