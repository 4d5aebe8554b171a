"""A Ray session: the cluster at RAY_ADDRESS, or a local cluster that listens on loopback only."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic.dataclasses import dataclass

from components.addresses import VARIABLE, cluster_address
from components.config import STRICT, Count
from components.errors import ReelTuneError, one_line
from components.samecode import import_root, refused
from components.sigterm import NO_HANDLER, Sigterm

if TYPE_CHECKING:
    from ray.data import DataContext

logger = logging.getLogger(__name__)

# Ray reads these at import or at start, so they are set before both. Despite its name, the first one makes Ray bind to
# 127.0.0.1 on Linux too. Other machines cannot reach such a driver.
LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}

# The address of the local cluster that pipelines/session.py started. It has the size of the settings too.
SESSION = "REELTUNE_SESSION"

# How long a local cluster may take for its first sign of life after the first try. Ray's own limit is 30 seconds.
START_LIMIT = "RAY_gcs_server_port_wait_time_s"
START_SECONDS = 180

# Ray's node ends itself if one of its helper processes takes 15 seconds to start, and no setting changes that. The next
# try finds the helpers' files in memory.
TRIES = 4

# A socket's path has at most 107 bytes. Ray's folder and file names take the rest.
TEMPORARY_BYTES = 107 - len("/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store")

# Ray makes a folder there, as it does where TMPDIR is not set.
SHORT_FOLDER = "/tmp"  # nosec B108

# Seconds between two lines about resources that the cluster does not give, and between two looks.
WAITING_SECONDS = 60.0
LOOK_SECONDS = 5.0


@dataclass(frozen=True, config=STRICT)
class RaySettings:
    """The local cluster that starts when RAY_ADDRESS is not set."""

    num_cpus: Count
    object_store_mib: Count


@contextlib.contextmanager
def ray_session(settings: RaySettings, *, log_to_driver: bool = True) -> Iterator[None]:
    """Connects to Ray for the length of a ``with`` block.

    Workers import the project from where this process does. While the block waits for room on the cluster, a line each
    minute says for what.

    Args:
        settings: The size of the local cluster. They do not affect an existing cluster.
        log_to_driver: Whether to print the workers' output here too.

    Raises:
        ReelTuneError: RAY_ADDRESS is set but no cluster answers there, a local one does not start, or a worker has
            other code than this process.
    """
    address = os.environ.get(VARIABLE)
    here = not address or address.startswith(("127.", "localhost:"))
    for key, value in {**QUIET, **NO_HANDLER, **(LOOPBACK if here else {})}.items():
        os.environ.setdefault(key, value)
    address = cluster_address()
    path = os.pathsep.join([str(import_root()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    options: dict[str, Any] = {
        "runtime_env": {"env_vars": {"PYTHONPATH": path}},
        "log_to_driver": log_to_driver,
        "logging_level": logging.WARNING,
    }
    import ray

    sigterm = Sigterm()
    try:
        # Ray puts the current folder first on the workers' import path. It may hold data, or another checkout.
        with sigterm.kept(), contextlib.chdir(import_root()):
            if address:
                _connect(address, options)
            else:
                _start_local(settings, options)
        with _said_what_is_waited_for():
            yield
    except BaseException as error:
        if sigterm.stopped is not None:
            raise sigterm.stopped from None
        if (refusal := refused(error)) is not None:
            raise refusal from None
        raise
    finally:
        ray.shutdown()


def is_local() -> bool:
    """Whether Ray runs on this machine alone, with as many CPUs as :class:`RaySettings` say.

    Raises:
        ReelTuneError: No cluster answers at RAY_ADDRESS.
    """
    address = cluster_address()
    return address is None or address == os.environ.get(SESSION)


def _connect(address: str, options: dict[str, Any]) -> None:
    import ray

    try:
        ray.init(address=address, **options)
    except Exception as error:  # Ray raises many kinds
        raise ReelTuneError(
            "the Ray cluster does not accept this process",
            where=VARIABLE,
            found=address,
            expected="a cluster that this machine is a node of, with the same version of Ray and the same token",
            cure=_first_line(error),
        ) from error


def _start_local(settings: RaySettings, options: dict[str, Any]) -> None:
    import ray

    # The cluster is this one machine, so gloo must not choose an outward interface.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # The workers do the actual work. Ray would start them at almost the lowest priority.
    os.environ.setdefault("RAY_worker_niceness", "0")
    _shorten_temporary_folder()
    options |= {"num_cpus": settings.num_cpus, "object_store_memory": settings.object_store_mib * 2**20}
    for left in reversed(range(TRIES)):
        try:
            ray.init(address="local", include_dashboard=False, **options)
            return
        except Exception as error:  # Ray raises many kinds
            if not left:
                raise ReelTuneError(
                    f"Ray did not start in {TRIES} tries",
                    where="local cluster",
                    found=_first_line(error),
                    cure="the machine may be too busy, or out of memory or disk. Try again later",
                ) from error
            logger.warning("Ray did not start (%s): trying again with more time", _first_line(error))
        ray.shutdown()
        os.environ[START_LIMIT] = str(START_SECONDS)


def _shorten_temporary_folder() -> None:
    """Moves Ray's files to /tmp if the folder for temporary files has too long a name, as batch systems make them."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    if name is None or (length := len(os.fsencode(os.environ[name]))) <= TEMPORARY_BYTES:
        return
    if not os.access(SHORT_FOLDER, os.W_OK | os.X_OK):
        raise ReelTuneError(
            "too long for the sockets of Ray",
            where=name,
            found=os.environ[name],
            expected=f"at most {TEMPORARY_BYTES} bytes",
            cure="set RAY_TMPDIR to a short path",
        )
    logger.warning("%s has %d bytes, and Ray takes %d: its files go to %s", name, length, TEMPORARY_BYTES, SHORT_FOLDER)
    os.environ["RAY_TMPDIR"] = SHORT_FOLDER


def _first_line(error: Exception) -> str:
    return one_line(error, 300) or type(error).__name__


def quiet_data() -> DataContext:
    """The settings of Ray Data, without the lines and bars that it prints."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return context


@contextlib.contextmanager
def _said_what_is_waited_for() -> Iterator[None]:
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(done,), name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(done: threading.Event) -> None:
    """Logs what this job waits for, each minute in which none of its placement groups has its place."""
    said = time.monotonic()
    while not done.wait(min(LOOK_SECONDS, WAITING_SECONDS)):
        try:
            waiting = _wanted()
        except Exception as error:  # the cluster has gone, and whoever uses it says so
            logger.debug("the cluster does not say what waits: %s", error)
            return
        if waiting is None:
            said = time.monotonic()
        elif waiting and time.monotonic() - said >= WAITING_SECONDS:
            said = time.monotonic()
            logger.warning("waiting for room on the cluster: %s", waiting)


def _wanted() -> str | None:
    """What the groups of this job want that have no place. Empty between two groups, None if nothing waits."""
    import ray
    from ray.util import placement_group_table

    # The id of a group ends in the id of its job.
    job = ray.get_runtime_context().get_job_id()
    groups = [group for name, group in placement_group_table().items() if name.endswith(job)]
    states = {group["state"] for group in groups}
    if "CREATED" in states or not states:
        return None
    if states == {"REMOVED"}:
        return ""
    bundles = [bundle for group in groups if group["state"] != "REMOVED" for bundle in group["bundles"].values()]
    wanted = {name: sum(bundle.get(name, 0) for bundle in bundles) for name in ("CPU", "GPU")}
    each = [f"{amount:g} {name}s ({room(name)})" for name, amount in wanted.items() if amount]
    return f"{len(bundles)} process(es) need {' and '.join(each)}"


def room(resource: str) -> str:
    """How much of a resource the connected cluster has, and how much of it is free."""
    import ray

    total, free = ray.cluster_resources().get(resource, 0), ray.available_resources().get(resource, 0)
    return f"the cluster has {total:g}, of which {free:g} are free"
