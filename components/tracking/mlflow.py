"""Runs in MLflow: one per training, with parameters, metrics over steps and lineage.

Everything goes through :class:`mlflow.MlflowClient` with an absolute URI. MLflow's fluent functions keep a global
active run and resolve relative stores against the current folder, and Ray workers run in a folder of their own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
import types
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

# Read by MLflow when it is imported.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_name, _value)

from filelock import FileLock  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Metric, Param, RunTag, ViewType  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

from components.errors import RegistryError  # noqa: E402
from components.tracking.flatten import flatten, metric_name  # noqa: E402
from components.tracking.settings import TrackingSettings  # noqa: E402

# MLflow's own mapping still passes an option that SQLAlchemy has deprecated.
warnings.filterwarnings("ignore", message=".*noload.*")
# Our models have an explicit signature, which says more than either remark asks for.
warnings.filterwarnings("ignore", message=".*Add type hints to the `predict` method.*")
warnings.filterwarnings("ignore", message=".*An input example was not provided.*")
# Alembic reports every migration of a new database at INFO.
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)

__all__ = ["MlflowClient", "MlflowException", "Run", "connect", "log_to", "start_run"]

Status = Literal["FINISHED", "FAILED", "KILLED"]
Log = Callable[[int, Mapping[str, float]], None]

_SQLITE = "sqlite:///"
_ENTITIES_PER_CALL = 100  # limit of params and tags in one request
_METRICS_PER_CALL = 1000


def tracking_uri(root: Path, settings: TrackingSettings) -> str:
    """The store's URI: ``MLFLOW_TRACKING_URI`` where set, else ``tracking.uri``; SQLite paths made absolute.

    Args:
        root: folder that a relative SQLite path starts from.
        settings: the ``tracking`` block of params.yaml.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or settings.uri
    if not uri.startswith(_SQLITE):
        return uri
    return _SQLITE + str(root.resolve() / uri.removeprefix(_SQLITE))


def connect(root: Path, settings: TrackingSettings) -> MlflowClient:
    """A client of the tracking store and registry, which are created where they are missing.

    Raises:
        RegistryError: nothing answers at the URI, or the store cannot be opened.
    """
    uri = tracking_uri(root, settings)
    try:
        if not uri.startswith(_SQLITE):
            _probe(uri)
            return MlflowClient(tracking_uri=uri, registry_uri=uri)
        database = Path(uri.removeprefix(_SQLITE))
        database.parent.mkdir(parents=True, exist_ok=True)
        # The client makes a new database, and processes that do so at the same time break each other.
        with FileLock(f"{database}.lock"):
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


def _probe(uri: str) -> None:
    """Fails at once where no server listens: MLflow itself would repeat the request for minutes."""
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
    """The experiment of a task, made on first use.

    With SQLite its artifacts lie in ``mlartifacts/<task>`` beside the database; a server decides for itself.
    """
    location = None
    if client.tracking_uri.startswith(_SQLITE):
        folder = Path(client.tracking_uri.removeprefix(_SQLITE)).parent / "mlartifacts" / task
        location = folder.as_uri()
    found = client.get_experiment_by_name(task)
    if found is None:
        with contextlib.suppress(MlflowException):  # another process was faster; the line below then finds it
            return str(client.create_experiment(task, artifact_location=location))
        found = client.get_experiment_by_name(task)
    if found is None or found.lifecycle_stage != "active":
        raise RegistryError(
            "the experiment is missing or deleted", where=client.tracking_uri, found=task, cure="restore it in MLflow"
        )
    return str(found.experiment_id)


class Run:
    """One run in MLflow. As a context manager it ends FINISHED, on an exception FAILED, on an interrupt KILLED."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id
        self._open = True
        self._handler: Any = None
        self._held: dict[str, set[tuple[int, float]]] = {}

    @property
    def uri(self) -> str:
        """The store's absolute URI."""
        return str(self.client.tracking_uri)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs ``metrics`` at ``step`` in one request; ``R@1`` becomes ``R1``, as MLflow refuses the sign.

        A point that the run holds already is not logged again.
        """
        new = {name: value for name, value in metrics.items() if (step, float(value)) not in self._points(name)}
        _log_metrics(self.client, self.run_id, step, new)
        for name, value in new.items():
            self._points(name).add((step, float(value)))

    def _points(self, name: str) -> set[tuple[int, float]]:
        if name not in self._held:
            history = self.client.get_metric_history(self.run_id, metric_name(name))
            self._held[name] = {(point.step, point.value) for point in history}
        return self._held[name]

    def tag(self, tags: Mapping[str, object]) -> None:
        """Sets or replaces tags; values other than strings are written as JSON."""
        items = [RunTag(key, _text(value)) for key, value in tags.items()]
        for start in range(0, len(items), _ENTITIES_PER_CALL):
            self.client.log_batch(self.run_id, tags=items[start : start + _ENTITIES_PER_CALL])

    def log_folder(self, folder: Path, name: str) -> None:
        """Copies the files of ``folder`` to the run's artifacts under ``name``."""
        self.client.log_artifacts(self.run_id, str(folder), name)

    def finish(self, status: Status = "FINISHED") -> None:
        """Ends the run; a second call does nothing."""
        if self._open:
            self._open = False
            self.client.set_terminated(self.run_id, status)

    def __enter__(self) -> Run:
        # SIGTERM (a stopped job) ends Python without unwinding, which would leave the run RUNNING for ever.
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, _exit_on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: types.TracebackType | None) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
        if kind is None:
            self.finish()
        else:
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")


def _exit_on_signal(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def start_run(
    root: Path,
    settings: TrackingSettings,
    *,
    task: str,
    method: str,
    seed: int,
    params: Mapping[str, Any],
    provenance: Mapping[str, Any],
    tags: Mapping[str, object] | None = None,
    resume: str | None = None,
) -> Run:
    """Starts a run in the task's experiment.

    Args:
        root: the project's folder.
        settings: the ``tracking`` block.
        task, method, seed: identity of what is trained; the run is named ``<method>-<seed>``.
        params: nested settings, logged as ``a.b.c`` parameters.
        provenance: as :func:`components.provenance.collect` gives it, logged as tags.
        tags: further tags, such as the frame store's fingerprint and the backbone's spec.
        resume: identity of the work (a hash of settings and data). A run of the same identity whose process was
            killed is continued, so that a resumed training has one history. A finished one never is.

    Raises:
        RegistryError: the store cannot be opened.
    """
    client = connect(root, settings)
    experiment = experiment_id(client, task)
    name = f"{method}-{seed}"
    left = _end_dead_runs(client, experiment, name)
    every = {
        "task": task,
        "method": method,
        "seed": str(seed),
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        **({"resume": resume} if resume else {}),
        **{key: _text(value) for key, value in flatten(provenance).items()},
        **{key: _text(value) for key, value in (tags or {}).items()},
    }
    if resume and left.get(resume):
        run = Run(client, left[resume])
        client.update_run(run.run_id, status="RUNNING")
        run.tag(every)
        return run
    run = Run(client, client.create_run(experiment, run_name=name, tags=every).info.run_id)
    items = [Param(key, _text(value)) for key, value in flatten(params).items()]
    for start in range(0, len(items), _ENTITIES_PER_CALL):
        client.log_batch(run.run_id, params=items[start : start + _ENTITIES_PER_CALL])
    return run


def _end_dead_runs(client: MlflowClient, experiment: str, name: str) -> dict[str, str]:
    """Ends runs called ``name`` whose process on this machine is gone; returns killed runs as resume key -> id."""
    killed: dict[str, str] = {}
    query = f"attributes.run_name = '{name}' and tags.host = '{socket.gethostname()}'"
    # Newest first, so that the newest of several killed runs is the one continued.
    for run in client.search_runs([experiment], query, ViewType.ACTIVE_ONLY, order_by=["attributes.start_time DESC"]):
        if run.info.status == "RUNNING" and not _alive(int(run.data.tags.get("pid", 0))):
            client.set_terminated(run.info.run_id, "KILLED")
        elif run.info.status not in ("KILLED", "FAILED"):
            continue
        killed.setdefault(run.data.tags.get("resume", ""), run.info.run_id)
    return killed


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def log_to(uri: str, run_id: str) -> Log:
    """A function that logs metrics to a run from any process, such as a Ray worker of rank 0.

    Args:
        uri: absolute, as :attr:`Run.uri`.
        run_id: of the run to log to.
    """
    client = MlflowClient(tracking_uri=uri)

    def log(step: int, metrics: Mapping[str, float]) -> None:
        _log_metrics(client, run_id, step, metrics)

    return log


def _log_metrics(client: MlflowClient, run_id: str, step: int, metrics: Mapping[str, float]) -> None:
    now = int(time.time() * 1000)
    items = [Metric(metric_name(key), float(value), now, step) for key, value in metrics.items()]
    for start in range(0, len(items), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=items[start : start + _METRICS_PER_CALL])


def find_run(client: MlflowClient, run_id: str | None) -> Any | None:
    """The run, or None where this store does not hold it."""
    if not run_id:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
