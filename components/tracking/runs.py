"""Runs in MLflow: one per training, with parameters, metrics over steps, and tags that say where they come from."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

from mlflow import entities

from components.errors import without_secrets
from components.liveness import identity, is_alive
from components.tracking.flatten import flatten, metric_name
from components.tracking.settings import TrackingSettings
from components.tracking.store import MlflowClient, MlflowException, connect, experiment_id, quoted

Status = Literal["FINISHED", "FAILED", "KILLED"]
SignalHandler = Callable[[int, FrameType | None], Any] | int | None

# MLflow's limits for one request.
_ENTITIES_PER_CALL = 100
_METRICS_PER_CALL = 1000


class TrackedRun:
    """One run in MLflow. As a context manager it ends FINISHED, after an exception FAILED, after an interrupt KILLED.

    Args:
        client: A client of the run's store.
        run_id: The run's id in MLflow.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id
        self._is_open = True
        self._replaced_handler: SignalHandler = None
        self._logged: dict[str, set[tuple[int, float]]] = {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log ``metrics`` at ``step``. ``R@1`` becomes ``R1``, since MLflow refuses the sign.

        A point that the run already has is not logged again.
        """
        new = {name: float(value) for name, value in metrics.items() if (step, value) not in self._points(name)}
        now = int(time.time() * 1000)
        points = [entities.Metric(metric_name(name), value, now, step) for name, value in new.items()]
        for start in range(0, len(points), _METRICS_PER_CALL):
            self.client.log_batch(self.run_id, metrics=points[start : start + _METRICS_PER_CALL])
        for name, value in new.items():
            self._points(name).add((step, value))

    def _points(self, name: str) -> set[tuple[int, float]]:
        if name not in self._logged:
            history = self.client.get_metric_history(self.run_id, metric_name(name))
            self._logged[name] = {(point.step, point.value) for point in history}
        return self._logged[name]

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log nested settings as parameters ``a.b.c``. MLflow refuses to change them later."""
        items = [entities.Param(key, _text(value)) for key, value in flatten(params).items()]
        for start in range(0, len(items), _ENTITIES_PER_CALL):
            self.client.log_batch(self.run_id, params=items[start : start + _ENTITIES_PER_CALL])

    def tag(self, tags: Mapping[str, object]) -> None:
        """Set or replace tags. Values other than strings are written as JSON."""
        items = [entities.RunTag(key, _text(value)) for key, value in tags.items()]
        for start in range(0, len(items), _ENTITIES_PER_CALL):
            self.client.log_batch(self.run_id, tags=items[start : start + _ENTITIES_PER_CALL])

    def log_folder(self, folder: Path, name: str) -> None:
        """Copy the files of ``folder`` to the run's artifacts under ``name``."""
        self.client.log_artifacts(self.run_id, str(folder), name)

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run. A second call does nothing."""
        if self._is_open:
            self._is_open = False
            self.client.set_terminated(self.run_id, status)

    def __enter__(self) -> TrackedRun:
        # SIGTERM, which ends a stopped job, kills Python without unwinding. The run would stay RUNNING for ever.
        if threading.current_thread() is threading.main_thread():
            self._replaced_handler = signal.signal(signal.SIGTERM, _exit_on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._replaced_handler is not None:
            signal.signal(signal.SIGTERM, self._replaced_handler)
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
) -> TrackedRun:
    """Start a run in the task's experiment, or continue one that was killed.

    Args:
        root: The project's folder.
        settings: The ``tracking`` block of params.yaml.
        task: The experiment's name.
        method: The first part of the run's name, which is ``<method>-<seed>``.
        seed: The second part.
        params: Nested settings for :meth:`TrackedRun.log_params`.
        provenance: What :func:`components.provenance.collect` returned, logged as tags.
        tags: More tags, such as the frame store's fingerprint and the backbone's spec.
        resume: A hash of the settings and data, which identifies the work. A run with the same hash whose process was
            killed is continued, so that a resumed training has one history. A finished run is never continued.

    Raises:
        RegistryError: The store cannot be opened.
    """
    client = connect(root, settings)
    experiment, name = experiment_id(client, task), f"{method}-{seed}"
    killed = _end_dead_runs(client, experiment, name)
    all_tags = {
        "task": task,
        "method": method,
        "seed": str(seed),
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "process": identity(),
        **({"resume": resume} if resume else {}),
        **{key: _text(value) for key, value in flatten(provenance).items()},
        **{key: _text(value) for key, value in (tags or {}).items()},
    }
    if resume and resume in killed:
        run = TrackedRun(client, killed[resume])
        client.update_run(run.run_id, status="RUNNING")
        run.tag(all_tags)
        return run
    run = TrackedRun(client, client.create_run(experiment, run_name=name, tags=all_tags).info.run_id)
    run.log_params(params)
    return run


def _end_dead_runs(client: MlflowClient, experiment: str, name: str) -> dict[str, str]:
    """End this machine's runs called ``name`` that have lost their process.

    Returns:
        Ids of killed and failed runs by resume key, the newest run for each key.
    """
    found: dict[str, str] = {}
    query = f"attributes.run_name = {quoted(name)} and tags.host = {quoted(socket.gethostname())}"
    newest_first = ["attributes.start_time DESC"]
    for run in client.search_runs([experiment], query, entities.ViewType.ACTIVE_ONLY, order_by=newest_first):
        tags = run.data.tags
        if run.info.status == "RUNNING" and not _has_process(tags):
            client.set_terminated(run.info.run_id, "KILLED")
        elif run.info.status not in ("KILLED", "FAILED"):
            continue
        found.setdefault(tags.get("resume", ""), run.info.run_id)
    return found


def _has_process(tags: Mapping[str, str]) -> bool:
    """Whether the process that started a run on this machine still runs."""
    if "process" in tags:
        return is_alive(tags["process"])
    # Release 0.1 wrote the process id alone. A later process may have it, and then the run is left as it is.
    pid = tags.get("pid", "")
    if not pid.isdecimal() or int(pid) == 0:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it belongs to another user
    return True


def find_run(client: MlflowClient, run_id: str | None) -> entities.Run | None:
    """The run with this id, or None if the store has no such run."""
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
    return without_secrets(value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str))
