"""The champion as the registry has it now, also after somebody has moved the alias by hand."""

from __future__ import annotations

from dataclasses import dataclass

from components.errors import RegistryError
from components.layout import Layout
from components.tracking.alias import alias_holder
from components.tracking.database import NoAliasError
from components.tracking.record import Champion, read_registry_record
from components.tracking.settings import TrackingSettings


@dataclass(frozen=True)
class CurrentChampion:
    """A champion and how it is known.

    Attributes:
        champion: The version, with a folder that contains its adapter.
        note: What a person should know about it. Empty if the registry and the record of ``register`` agree.
    """

    champion: Champion
    note: str = ""


def current_champion(layout: Layout, settings: TrackingSettings, task: str) -> CurrentChampion:
    """The version that has the alias.

    The registry decides. Its answer is compared with the record that the register stage left. If they differ, the
    alias's version is exported. If the registry cannot be asked, the record is used, and the note says so.

    Args:
        layout: The project's paths.
        settings: The ``tracking`` block of params.yaml.
        task: Key of the task in params.yaml.

    Raises:
        RegistryError: There is no record, no version has the alias, or the version's files are gone.
    """
    recorded = read_registry_record(layout.champion_record(task)).champion
    try:
        holder = alias_holder(layout.root, settings, task)
    except NoAliasError:
        raise
    except RegistryError as error:
        used = f"version {recorded.version} is the champion of {layout.champion_record(task)}"
        return CurrentChampion(recorded, f"the registry cannot be asked, so this may be out of date: {used} ({error})")
    if holder is None or holder == recorded.version:
        return CurrentChampion(recorded)
    # MLflow takes seconds to import, and it is needed only here.
    from components.tracking.registry import ModelRegistry
    from components.tracking.store import connect

    registry = ModelRegistry(connect(layout.root, settings), layout.root, settings, task)
    champion = registry.export_champion(layout.exported_champion(task))
    moved = f"the alias `{settings.alias}` was moved from version {recorded.version} to {champion.version}"
    return CurrentChampion(champion, f"{moved} after `register` ran")
