"""A command whose processes share one Ray session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SESSION = [sys.executable, str(REPOSITORY / "pipelines" / "session.py"), "--root", str(REPOSITORY)]
# Two processes in turn, each with a session of the project, in the same cluster.
JOINS = """
import subprocess, sys
code = '''
from components.cluster import RaySettings, ray_session
with ray_session(RaySettings(num_cpus=1, object_store_mib=128)):
    import ray
    print(ray.get_runtime_context().gcs_address, ray.get(ray.remote(lambda: 7).remote()), flush=True)
'''
for _ in range(2):
    subprocess.run([sys.executable, "-c", code], check=True)
sys.exit(3)
"""
# Starts a process and does not tell it of a signal, as DVC does with a stage.
STARTS = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
# What waits for a signal, and has something to do when it comes.
WAITS = """
import signal, sys, time
def stop(number, frame):
    time.sleep(0.2)
    print("stopped", flush=True)
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
print("waits", flush=True)
time.sleep(300)
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **more}


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_processes_of_a_command_share_a_session() -> None:
    done = subprocess.run(
        [*SESSION, sys.executable, "-c", JOINS], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    first, second = (line.split() for line in done.stdout.splitlines())
    # A session joins the cluster at RAY_ADDRESS too.
    assert first == second == [os.environ["RAY_ADDRESS"], "7"]


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_sigterm_reaches_the_command_and_its_end_is_waited_for() -> None:
    process = subprocess.Popen(
        [*SESSION, sys.executable, "-c", STARTS, WAITS], env=environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "stopped\n"
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "error: command line: missing; expected a command; try `dvc repro`"),
        (
            ["--", "no-such-program"],
            "error: no-such-program: the command does not start; found 'No such file or directory'",
        ),
    ],
)
def test_a_command_that_does_not_start_is_one_line(command: list[str], message: str) -> None:
    done = subprocess.run([*SESSION, *command], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
