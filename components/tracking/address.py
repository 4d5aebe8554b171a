"""The address of the tracking store."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from components.tracking.settings import TrackingSettings

SQLITE = "sqlite:///"


def tracking_uri(root: Path, settings: TrackingSettings) -> str:
    """The store's URI: ``MLFLOW_TRACKING_URI`` if set, else ``tracking.uri``. SQLite paths become absolute.

    Args:
        root: The folder that a relative SQLite path starts from. It may contain ``?``, ``#``, ``%`` and blanks.
        settings: The ``tracking`` block of params.yaml.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or settings.uri
    if not uri.startswith(SQLITE):
        return uri
    query = uri.partition("?")[2]
    # Only these two characters have a meaning here. MLflow also makes the folder that the quoted path names, so quoting
    # more than necessary would leave more empty folders.
    path = os.path.abspath(root.resolve() / database_of(uri)).replace("%", "%25").replace("?", "%3F")
    return SQLITE + path + (f"?{query}" if query else "")


def database_of(uri: str) -> Path:
    """The file of a SQLite URI."""
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0]))
