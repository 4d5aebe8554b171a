"""Runs in MLflow: one per training, with parameters, metrics over steps, and tags that say where they come from."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

from mlflow import entities

from components.errors import without_secrets
from components.liveness import identity
from components.tracking.drivers import HEARTBEAT, Heartbeat, beat, has_driver, refuse_second, tags_of_this_process
from components.tracking.flatten import flatten, metric_name
from components.tracking.outbox import End, Outbox, Point, finished_runs
from components.tracking.settings import TrackingSettings
from components.tracking.store import MlflowClient, StoreError, connect, experiment_id, quoted

Status = Literal["FINISHED", "FAILED", "KILLED"]
SignalHandler = Callable[[int, FrameType | None], Any] | int | None

logger = logging.getLogger(__name__)

# How long a store that is away is left in peace before the next try.
RETRY_SECONDS = 30.0

# MLflow's limits for one request.
_ENTITIES_PER_CALL = 100
_METRICS_PER_CALL = 1000


class TrackedRun:
    """One run in MLflow. As a context manager it ends FINISHED, after an exception FAILED, after an interrupt KILLED.

    While the store is away, metrics and the end of the run are kept in a file under the root. They are sent when the
    store is back, by this process or by the next run that starts.

    Args:
        client: A client of the run's store.
        run_id: The run's id in MLflow.
        root: The project's folder.
    """

    def __init__(self, client: MlflowClient, run_id: str, root: Path) -> None:
        self.client = client
        self.run_id = run_id
        self.outbox = Outbox(root, run_id)
        self._is_open = True
        self._is_store_away = False
        self._retry_at = 0.0
        # The heartbeat and the training's messages come in threads.
        self._lock = threading.RLock()
        self._heartbeat = Heartbeat(self._beat)
        self._replaced_handler: SignalHandler = None
        self._logged: dict[str, set[tuple[int, float]]] = {}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log ``metrics`` at ``step``. ``R@1`` becomes ``R1``, since MLflow refuses the sign.

        A point that the run already has is not logged again.
        """
        now = int(time.time() * 1000)
        points = [Point(metric_name(name), float(value), step, now) for name, value in metrics.items()]
        with self._lock:
            if not self._is_store_away or self.deliver():
                try:
                    self._send(points)
                    return
                except StoreError as error:
                    self._lost(error)
            self.outbox.add(*points)

    def deliver(self, at_once: bool = False) -> bool:
        """Send what was kept while the store was away.

        Args:
            at_once: False to leave the store in peace for a while after each failure.

        Returns:
            Whether the store has everything.
        """
        with self._lock:
            if not at_once and time.monotonic() < self._retry_at:
                return False
            try:
                entries = self.outbox.read()
                self._send([entry for entry in entries if isinstance(entry, Point)])
                for end in (entry for entry in entries if isinstance(entry, End)):
                    self.client.set_terminated(self.run_id, end.status, end.time)
            except StoreError as error:
                self._lost(error)
                return False
            self.outbox.clear()
            if entries:
                logger.info("the tracking store is back: sent what run %s had kept", self.run_id)
            self._is_store_away = False
            return True

    def _send(self, points: Sequence[Point]) -> None:
        new = [point for point in points if (point.step, point.value) not in self._points(point.name)]
        for start in range(0, len(new), _METRICS_PER_CALL):
            part = new[start : start + _METRICS_PER_CALL]
            metrics = [entities.Metric(point.name, point.value, point.time, point.step) for point in part]
            self.client.log_batch(self.run_id, metrics=metrics)
        for point in new:
            self._points(point.name).add((point.step, point.value))

    def _points(self, name: str) -> set[tuple[int, float]]:
        if name not in self._logged:
            history = self.client.get_metric_history(self.run_id, name)
            self._logged[name] = {(point.step, point.value) for point in history}
        return self._logged[name]

    def _lost(self, error: StoreError) -> None:
        if not self._is_store_away:
            logger.warning("metrics are kept in %s until the tracking store is back: %s", self.outbox.file, error)
        self._is_store_away = True
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _beat(self) -> None:
        with self._lock:
            if self._is_store_away and not self.deliver():
                return
            try:
                self.client.set_tag(self.run_id, HEARTBEAT, beat())
            except StoreError as error:
                self._lost(error)

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
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            if not self._is_store_away or self.deliver(at_once=True):
                try:
                    self.client.set_terminated(self.run_id, status)
                    return
                except StoreError as error:
                    self._lost(error)
            self.outbox.add(End(status, int(time.time() * 1000)))
            logger.warning(
                "the tracking store is away: what it lacks of run %s is in %s, and the next run that starts sends it",
                self.run_id,
                self.outbox.file,
            )

    def __enter__(self) -> TrackedRun:
        # SIGTERM, which ends a stopped job, kills Python without unwinding. The run would stay RUNNING for ever.
        if threading.current_thread() is threading.main_thread():
            self._replaced_handler = signal.signal(signal.SIGTERM, _exit_on_signal)
        self._heartbeat.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._heartbeat.__exit__()
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
            killed is continued wherever it was started, so that a resumed training has one history. A finished run is
            never continued.

    Raises:
        RegistryError: The store cannot be opened, or another process does the same work.
    """
    client = connect(root, settings)
    for run_id in finished_runs(root):
        TrackedRun(client, run_id, root).deliver()
    experiment, name = experiment_id(client, task), f"{method}-{seed}"
    killed = _end_dead_runs(client, root, experiment, name, resume)
    all_tags = {
        "task": task,
        "method": method,
        "seed": str(seed),
        **tags_of_this_process(),
        **({"resume": resume} if resume else {}),
        **{key: _text(value) for key, value in flatten(provenance).items()},
        **{key: _text(value) for key, value in (tags or {}).items()},
    }
    if resume and resume in killed:
        run = TrackedRun(client, killed[resume], root)
        run.deliver()
        client.update_run(run.run_id, status="RUNNING")
        run.tag(all_tags)
        return run
    run = TrackedRun(client, client.create_run(experiment, run_name=name, tags=all_tags).info.run_id, root)
    run.log_params(params)
    return run


def _end_dead_runs(client: MlflowClient, root: Path, experiment: str, name: str, resume: str | None) -> dict[str, str]:
    """End the runs called ``name`` that have lost their driver, on any machine.

    Returns:
        Ids of killed and failed runs by resume key, the newest run for each key.

    Raises:
        RegistryError: A run with this resume key still has its driver.
    """
    found: dict[str, str] = {}
    query = f"attributes.run_name = {quoted(name)}"
    newest_first = ["attributes.start_time DESC"]
    for run in client.search_runs([experiment], query, entities.ViewType.ACTIVE_ONLY, order_by=newest_first):
        tags, run_id = run.data.tags, run.info.run_id
        is_same_work = bool(resume) and tags.get("resume") == resume

        def look(run_id: str = run_id) -> Mapping[str, str]:
            return dict(client.get_run(run_id).data.tags)

        if run.info.status == "RUNNING":
            if tags.get("process") == identity() and is_same_work:
                pass  # a trial that this search has restarted
            elif has_driver(tags, is_same_work=is_same_work, look=look):
                if is_same_work:
                    raise refuse_second(run_id, tags)
                continue
            else:
                TrackedRun(client, run_id, root).deliver()
                client.set_terminated(run_id, "KILLED")
        elif run.info.status not in ("KILLED", "FAILED"):
            continue
        found.setdefault(tags.get("resume", ""), run_id)
    return found


def find_run(client: MlflowClient, run_id: str | None) -> entities.Run | None:
    """The run with this id, or None if the store has no such run."""
    if not run_id:
        return None
    try:
        run = client.get_run(run_id)
    except StoreError as error:
        if error.code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _text(value: object) -> str:
    return without_secrets(value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str))
