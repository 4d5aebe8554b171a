"""The MLflow store: its address, the connection to it, and its experiments.

All access goes through :class:`mlflow.MlflowClient` with an absolute URI. MLflow's fluent functions keep a global
active run and resolve relative stores against the current folder, but each Ray worker runs in another folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import warnings
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from components.errors import RegistryError
from components.layout import Layout
from components.tracking.settings import TrackingSettings

__all__ = ["MlflowClient", "MlflowException", "connect", "experiment_id", "quoted", "tracking_uri"]

# MLflow still passes an option that SQLAlchemy has deprecated.
warnings.filterwarnings("ignore", message=".*noload.*")
# Our models have an explicit signature, so type hints and input examples add nothing.
warnings.filterwarnings("ignore", message=".*Add type hints to the `predict` method.*")
warnings.filterwarnings("ignore", message=".*An input example was not provided.*")
# Alembic reports every migration of a new database at INFO.
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)

_SQLITE = "sqlite:///"


def tracking_uri(root: Path, settings: TrackingSettings) -> str:
    """The store's URI: ``MLFLOW_TRACKING_URI`` if set, else ``tracking.uri``. SQLite paths become absolute.

    Args:
        root: The folder that a relative SQLite path starts from. It may contain ``?``, ``#``, ``%`` and blanks.
        settings: The ``tracking`` block of params.yaml.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or settings.uri
    if not uri.startswith(_SQLITE):
        return uri
    query = uri.partition("?")[2]
    # Only these two characters have a meaning here. MLflow also makes the folder that the quoted path names, so quoting
    # more than necessary would leave more empty folders.
    path = str(root.resolve() / _database(uri)).replace("%", "%25").replace("?", "%3F")
    return _SQLITE + path + (f"?{query}" if query else "")


def connect(root: Path, settings: TrackingSettings) -> MlflowClient:
    """Open the tracking store and registry. A SQLite database that does not exist is created.

    Raises:
        RegistryError: No server answers at the URI, or the store cannot be opened.
    """
    uri = tracking_uri(root, settings)
    try:
        if not uri.startswith(_SQLITE):
            _check_server(uri)
            return MlflowClient(tracking_uri=uri, registry_uri=uri)
        database = _database(uri)
        database.parent.mkdir(parents=True, exist_ok=True)
        # The client creates the database, and processes that do so at the same time break each other's tables.
        # The kernel releases this lock even after a kill. A soft lock would stay.
        with FileLock(f"{database}.lock", fallback_to_soft=False):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
            return client
    except (MlflowException, OSError) as error:
        raise RegistryError(
            "the tracking store cannot be opened",
            where=uri,
            found=str(error).splitlines()[0],
            cure="a store of an older MLflow needs `mlflow db upgrade <uri>` once",
        ) from error


def _database(uri: str) -> Path:
    """The file of a SQLite URI."""
    return Path(unquote(uri.removeprefix(_SQLITE).partition("?")[0]))


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
        RegistryError: Somebody has deleted the experiment.
    """
    location = None
    if client.tracking_uri.startswith(_SQLITE):
        folder = _database(client.tracking_uri).parent  # the project's root, unless `tracking.uri` names another place
        location = (Layout(folder).tracking_artifacts / task).as_uri()
    found = client.get_experiment_by_name(task)
    if found is None:
        # Fails if another process was faster. The line after this block then finds the experiment.
        with contextlib.suppress(MlflowException):
            return str(client.create_experiment(task, artifact_location=location))
        found = client.get_experiment_by_name(task)
    if found is None or found.lifecycle_stage != "active":
        raise RegistryError(
            "the experiment is missing or deleted", where=client.tracking_uri, found=task, cure="restore it in MLflow"
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
