"""Which version has a model's alias now. MLflow is imported only for a server, since that takes seconds."""

from __future__ import annotations

from pathlib import Path

from components.tracking.address import SQLITE, database_of, tracking_uri
from components.tracking.database import alias_in, missing_alias
from components.tracking.settings import TrackingSettings


def alias_holder(root: Path, settings: TrackingSettings, model: str) -> str | None:
    """The number of the version that has the alias, whoever moved it.

    Args:
        root: The project's folder.
        settings: The ``tracking`` block of params.yaml.
        model: The model's name, which is the task's key in params.yaml.

    Returns:
        None if there is no store, or it has no such model. Nothing is created.

    Raises:
        NoAliasError: The model exists and no version has the alias.
        RegistryError: The store does not answer.
    """
    uri = tracking_uri(root, settings)
    if uri.startswith(SQLITE):
        database = database_of(uri)
        return alias_in(database, model, settings.alias) if database.exists() else None
    from components.tracking.store import StoreError, connect

    try:
        aliases = connect(root, settings).get_registered_model(model).aliases
    except StoreError as error:
        if error.code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if settings.alias not in aliases:
        raise missing_alias(model, settings.alias)
    return str(aliases[settings.alias])
