"""Trainings on a real Ray that are stopped, that wait for room, or whose workers have other code."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import raylets
import tiny_world
from empty_store import write_empty_store

from components.training.distributed import prepare
from components.training.job import Job

REPOSITORY = Path(__file__).resolve().parents[2]
ARGUMENTS = ["--task", tiny_world.TASK, "--method", "vop"]
# What a cluster's root may hold: a folder of the same name, which must never run.
PLANTED = "from pathlib import Path\nPath(__file__).with_name('it-ran').touch()\nraise SystemExit('planted')\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tiny_world.write_project(tmp_path)
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**clean, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **more}


def start(root: Path, variables: dict[str, str], *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "pipelines" / "train.py"), "--root", str(root), *ARGUMENTS, *overrides]
    return subprocess.Popen(command, cwd=root, env=variables, stderr=subprocess.PIPE, text=True)


def wait_for_a_checkpoint(root: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not list((root / ".reeltune" / "train").glob("*/checkpoints/*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.2)


@pytest.mark.slow
def test_sigterm_in_a_training_ends_its_run(root: Path) -> None:
    """The start has its own obstacles: Ray's time is over at once, TMPDIR is long, and the root holds other code."""
    write_empty_store(root)
    (root / "components").mkdir()
    (root / "components" / "__init__.py").write_text(PLANTED)
    long = root / ("x" * 60)
    long.mkdir()
    variables = environment(TMPDIR=str(long), RAY_gcs_server_port_wait_time_s="0")
    process = start(root, variables, "training.epochs=3000", "execution.checkpoint_steps=2")
    try:
        wait_for_a_checkpoint(root, process)
        process.terminate()
        errors = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "Traceback" not in errors
    assert "trying again with more time" in errors
    assert f"TMPDIR has {len(str(long))} bytes" in errors
    assert not (root / "components" / "it-ran").exists()
    with sqlite3.connect(root / "mlflow.db") as database:
        [(status, end)] = database.execute("select status, end_time from runs").fetchall()
    assert status == "KILLED"
    assert end is not None


CONNECTS = """
import signal, sys, time
from components.cluster import RaySettings, ray_session

def stop(number, frame):
    raise SystemExit(128 + number)

signal.signal(signal.SIGTERM, stop)
with ray_session(RaySettings(num_cpus=1, object_store_mib=128)):
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["logs/gcs_server.out", "logs/python-core-driver-*.log"])
def test_sigterm_while_ray_starts_ends_the_process(sign: str) -> None:
    """Once in Python's part of the start, and once in the C++ part, where Ray has a handler that aborts."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as short:
        process = subprocess.Popen(
            [sys.executable, "-c", CONNECTS], env=environment(RAY_TMPDIR=short), stderr=subprocess.PIPE, text=True
        )
        try:
            deadline = time.monotonic() + 300
            while not list(Path(short).glob(f"ray/session_*/{sign}")):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline, "Ray does not start"
                time.sleep(0.002)
            process.terminate()
            errors = process.communicate(timeout=120)[1]
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(("workers", "cpus"), [(8, 2), (4, 1), (3, 1)])
def test_more_workers_than_the_local_cluster_ever_places(root: Path, workers: int, cpus: int) -> None:
    overrides = [f"execution.workers={workers}", f"ray.num_cpus={cpus}", "training.batch_size=24"]
    params = tiny_world.params(root, *overrides, "training.micro_batches=24")
    with pytest.raises(
        Exception, match=f"{workers} workers need {workers / 2:g} CPUs, and the local cluster has {cpus}"
    ):
        prepare(Job.of(root, params, tiny_world.TASK, "vop", 0))
    cured = tiny_world.params(root, *overrides, "training.micro_batches=24", f"ray.num_cpus={workers}")
    assert prepare(Job.of(root, cured, tiny_world.TASK, "vop", 0)).trains


WAITS = """
import runpy, sys
import components.cluster
components.cluster.WAITING_SECONDS = 3.0
sys.argv = [sys.argv[1], *sys.argv[2:]]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# The code on disk changes between the driver's start and the workers'.
OTHER_CODE = """
import sys
from pathlib import Path
from components.cluster import RaySettings, ray_session
from components.errors import ReelTuneError
from components.provenance import collect
from components.samecode import on_worker

task = on_worker(collect)
with (Path(sys.argv[1]) / "components" / "layout.py").open("a") as stream:
    stream.write("# another version\\n")
try:
    with ray_session(RaySettings(num_cpus=1, object_store_mib=128)):
        import ray
        ray.get(ray.remote(num_cpus=0, max_retries=0)(task).remote(Path(".")))
except ReelTuneError as error:
    print(error)
"""


@pytest.mark.slow
def test_on_a_cluster_a_line_says_what_is_waited_for_and_other_code_is_refused(root: Path) -> None:
    write_empty_store(root)
    node = root / "node"
    node.mkdir()
    with raylets.cluster([node], [1], environment()) as nodes:
        copy = root / "copy"
        shutil.copytree(REPOSITORY / "components", copy / "components")
        done = subprocess.run(
            [sys.executable, "-c", OTHER_CODE, str(copy)], cwd=copy,
            env={**nodes.environment, "PYTHONPATH": str(copy)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "components: this worker has other code than the driver; expected the code in " in done.stdout, done
        assert "\n" not in done.stdout.strip()

        script = str(REPOSITORY / "pipelines" / "train.py")
        command = [sys.executable, "-c", WAITS, script, "--root", str(root), *ARGUMENTS, "execution.workers=4"]
        process = subprocess.Popen(command, cwd=root, env=nodes.environment, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if "waiting for room" in line:
                    break
        finally:
            process.kill()
            process.communicate()
    assert "4 process(es) need 2 CPUs (the cluster has 1, of which 1 are free)" in lines[-1], lines
