"""An empty tracking store, made once in each process of the suite and copied.

MLflow makes a database in dozens of migrations, and each of them writes to the disk. On a busy machine that takes half
a minute. Tests of a store's beginning do without this module.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from components.layout import Layout
from components.tracking.settings import TrackingSettings
from components.tracking.store import connect

SETTINGS = TrackingSettings(uri="sqlite:///mlflow.db", methods=(), alias="champion", metric="t2v_R@1", margin=1.0)


def write_empty_store(root: Path) -> None:
    """Writes the database that the first run under ``root`` would make."""
    Layout(root).tracking_database.write_bytes(_database())


@functools.cache
def _database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        connect(root, SETTINGS)
        return Layout(root).tracking_database.read_bytes()
