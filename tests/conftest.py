"""Fixtures that parts share. Because this file is here, pytest also puts this folder on the import path."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The suite runs in two processes, and many tests start more. With a thread per core, each of them would wait for the
# threads of the others. PyTorch reads this when it is imported, so it is set before.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The files that take longest, the longest first. They start first, so that no process waits at the end for one of them.
LONGEST = (
    "pipelines/test_whole_way.py",
    "pipelines/test_nodes.py",
    "bench/test_smoke.py",
    "pipelines/test_train.py",
    "ingest/test_ingest_ray.py",
    "ingest/test_ingest_cluster.py",
    "tracking/test_registry.py",
    "pipelines/test_tune.py",
    "pipelines/test_processes.py",
    "pipelines/test_own_videos.py",
    "pipelines/test_ingest.py",
    "test_edits.py",
    "training/test_loop.py",
    "training/test_kill.py",
    "methods/test_matrix.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, and skips the tests marked ``gpu`` where there is no CUDA device."""
    order = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch  # most tests start faster without it

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


# Runs in pipelines/session.py: says where the session is, and waits.
WAIT = "import os, sys; print(os.environ['RAY_ADDRESS'], os.environ['RAY_AUTH_MODE'], flush=True); sys.stdin.read()"


@pytest.fixture(scope="session")
def ray_variables() -> Iterator[dict[str, str]]:
    """A local Ray session of two CPUs for the rest of the run: the environment of processes that join it.

    Starting one takes ten seconds or more, and joining it takes one.
    """
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "pipelines/session.py", sys.executable, "-c", WAIT]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        command, cwd=root, env=clean, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address, mode = process.stdout.readline().split()
        yield {
            "RAY_ADDRESS": address,
            "RAY_AUTH_MODE": mode,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "REELTUNE_SESSION": address,
        }
    finally:
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.fixture(scope="module")
def shared_ray(ray_variables: dict[str, str]) -> Iterator[None]:
    """Everything that a module's tests start joins one Ray session."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch with one thread: how products are cut among threads decides about their rounding."""
    import torch  # most tests start faster without it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
