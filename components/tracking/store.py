"""The MLflow store: its address, the connection to it, and its experiments.

All access goes through :class:`mlflow.MlflowClient` with an absolute URI. MLflow's fluent functions keep a global
active run and resolve relative stores against the current folder, but each Ray worker runs in another folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock
from mlflow import MlflowClient

from components.errors import RegistryError
from components.layout import Layout
from components.tracking.address import SQLITE, database_of, tracking_uri
from components.tracking.client import CheckedClient, StoreError, answering
from components.tracking.database import follow_a_move, wait_for_writers
from components.tracking.settings import TrackingSettings

__all__ = ["MlflowClient", "StoreError", "answering", "connect", "experiment_id", "quoted", "tracking_uri"]

# MLflow still passes an option that SQLAlchemy has deprecated.
warnings.filterwarnings("ignore", message=".*noload.*")
# Our models have an explicit signature, so type hints and input examples add nothing.
warnings.filterwarnings("ignore", message=".*Add type hints to the `predict` method.*")
warnings.filterwarnings("ignore", message=".*An input example was not provided.*")
# Alembic reports every migration of a new database at INFO.
logging.getLogger("alembic").setLevel(logging.WARNING)
# It logs the traceback of each error that it raises, and ours are one line.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def connect(root: Path, settings: TrackingSettings) -> MlflowClient:
    """Open the tracking store and registry. A SQLite database that does not exist is created.

    If the project was moved, the paths in its database follow.

    Raises:
        RegistryError: No MLflow server answers at the URI, or the store cannot be opened.
    """
    uri = tracking_uri(root, settings)
    if not uri.startswith(SQLITE):
        _check_server(uri)
        return _opened(uri)
    database = database_of(uri)
    with answering(uri):
        database.parent.mkdir(parents=True, exist_ok=True)
        # The client creates the database, and processes that do so at the same time break each other's tables.
        # The kernel releases this lock even after a kill. A soft lock would stay.
        with FileLock(f"{database}.lock", fallback_to_soft=False):
            wait_for_writers(database)
            client = _opened(uri)
            follow_a_move(database)
    return client


def _opened(uri: str) -> MlflowClient:
    """A client whose store has answered once."""
    with answering(uri):
        client = CheckedClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


@contextlib.contextmanager
def model_lock(client: MlflowClient, root: Path, model: str) -> Iterator[None]:
    """Holds the lock of a registered model: processes that register the same model do so one after another.

    With SQLite the lock is next to the database. With a server it is under the root and excludes only the processes
    that share this folder.
    """
    digest = hashlib.sha256(model.encode()).hexdigest()[:8]
    if client.tracking_uri.startswith(SQLITE):
        place = Path(f"{database_of(client.tracking_uri)}.{digest}.lock")
    else:
        place = Layout(root).tracking_work / f"{digest}.lock"
        place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place, fallback_to_soft=False):
        yield


def _check_server(uri: str) -> None:
    """Fail at once if no server listens. MLflow itself would repeat the request for minutes."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=5):
            return
    except (OSError, ValueError) as error:
        raise RegistryError(
            "no MLflow server answers",
            where="MLFLOW_TRACKING_URI or tracking.uri",
            found=f"{uri} ({error})",
            expected="the address of a running server, or sqlite:///<file>",
        ) from None


def experiment_id(client: MlflowClient, task: str) -> str:
    """The id of the task's experiment, which is created on first use.

    With SQLite, artifacts go to ``mlartifacts/<task>`` next to the database. A server chooses the place itself.

    Raises:
        RegistryError: Somebody has deleted the experiment, or the store does not answer.
    """
    location = None
    if client.tracking_uri.startswith(SQLITE):
        folder = database_of(
            client.tracking_uri
        ).parent  # the project's root, unless `tracking.uri` names another place
        location = (Layout(folder).tracking_artifacts / task).as_uri()
    found = client.get_experiment_by_name(task)
    if found is None:
        try:
            return str(client.create_experiment(task, artifact_location=location))
        except StoreError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
        found = client.get_experiment_by_name(task)
    if found is None or found.lifecycle_stage != "active":
        raise RegistryError(
            "the experiment is missing or deleted",
            where=client.tracking_uri,
            found=task,
            cure="restore it in MLflow",
        )
    return str(found.experiment_id)


def quoted(name: str) -> str:
    """A string literal for an MLflow filter, which knows two kinds of quotes and no escapes.

    Raises:
        RegistryError: The name contains both kinds.
    """
    for mark in ("'", '"'):
        if mark not in name:
            return f"{mark}{name}{mark}"
    raise RegistryError(
        "MLflow cannot search for this name", where="key of a task or method", found=name, expected="one kind of quotes"
    )
