"""A Ray session: the cluster at RAY_ADDRESS, or a local cluster that listens on loopback only."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from pydantic.dataclasses import dataclass

from components.config import STRICT, Count
from components.errors import ReelTuneError

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


@dataclass(frozen=True, config=STRICT)
class RaySettings:
    """The local cluster that starts when RAY_ADDRESS is not set."""

    num_cpus: Count
    object_store_mib: Count


@contextlib.contextmanager
def ray_session(root: Path, settings: RaySettings, *, log_to_driver: bool = True) -> Iterator[None]:
    """Connects to Ray for the length of a ``with`` block.

    Args:
        root: The project's folder. It is put on the workers' import path.
        settings: The size of the local cluster. They do not affect an existing cluster.
        log_to_driver: Whether to print the workers' output here too.

    Raises:
        ReelTuneError: RAY_ADDRESS is set but nothing answers there. (Ray itself would wait for minutes.)
    """
    address = os.environ.get("RAY_ADDRESS")
    here = not address or address.startswith(("127.", "localhost:"))
    for key, value in {**QUIET, **(LOOPBACK if here else {})}.items():
        os.environ.setdefault(key, value)
    if address:
        _probe(address)
    import ray

    worker_env = {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    runtime_env = {"env_vars": worker_env}
    if address:
        ray.init(address=address, runtime_env=runtime_env, log_to_driver=log_to_driver, logging_level=logging.WARNING)
    else:
        # The cluster is this one machine, so gloo must not choose an outward interface.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        # The workers do the actual work. Ray would start them at almost the lowest priority.
        os.environ.setdefault("RAY_worker_niceness", "0")
        ray.init(
            address="local",
            num_cpus=settings.num_cpus,
            object_store_memory=settings.object_store_mib * 2**20,
            include_dashboard=False,
            runtime_env=runtime_env,
            log_to_driver=log_to_driver,
            logging_level=logging.WARNING,
        )
    try:
        yield
    finally:
        ray.shutdown()


def _probe(address: str) -> None:
    if "://" in address or address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return
    except (OSError, ValueError) as error:
        raise ReelTuneError(
            "no Ray cluster answers",
            where="RAY_ADDRESS",
            found=address,
            expected="host:port of a running head",
            cure=f"start one, or unset the variable ({error})",
        ) from None
