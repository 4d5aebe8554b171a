"""A Ray cluster of several nodes on this machine, in a separate process: ``python raylets.py SPEC``.

SPEC is JSON with ``folders``, the working directory of each node, and ``cpus`` of each node. The head comes first. The
process prints one line of JSON with the address and the pid of each raylet. It runs until its stdin closes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from components.cluster import LOOPBACK, QUIET


@dataclass(frozen=True)
class Nodes:
    """A running cluster.

    Attributes:
        environment: The environment for a driver that uses the cluster.
        raylets: The raylets' pids, the head's first.
    """

    environment: dict[str, str]
    raylets: tuple[int, ...]

    def processes(self, node: int, name: str) -> list[psutil.Process]:
        """The processes of a node whose title contains ``name``."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.raylets[node]).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if name in " ".join(process.cmdline()):
                        found.append(process)
        return found

    def lose(self, node: int) -> None:
        """Ends a node as a power cut does. (Workers whose raylet alone is killed continue to train.)"""
        raylet = psutil.Process(self.raylets[node])
        members = [raylet, *raylet.children(recursive=True)]
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


@contextlib.contextmanager
def cluster(folders: list[Path], cpus: list[int], environment: Mapping[str, str]) -> Iterator[Nodes]:
    """A cluster on loopback for the length of a ``with`` block. At the end, all of its processes end."""
    # A socket path has at most 107 bytes, and pytest's folders leave too few of them.
    temporary = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    (temporary / "token").write_text(secrets.token_hex(32))
    # Ray's workers would wait for whatever another test computes: by default they have almost the lowest priority.
    variables = {**environment, **QUIET, **LOOPBACK, "GLOO_SOCKET_IFNAME": "lo", "RAY_worker_niceness": "0"}
    variables["RAY_AUTH_TOKEN_PATH"] = str(temporary / "token")
    spec = {"folders": [str(folder) for folder in folders], "cpus": cpus, "temporary": str(temporary)}
    with (temporary / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(spec)],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    family: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (temporary / "log").read_text()
        started = json.loads(line)
        family = psutil.Process(process.pid).children(recursive=True)
        yield Nodes({**variables, "RAY_ADDRESS": started["address"]}, tuple(started["raylets"]))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=30)
        shutil.rmtree(temporary, ignore_errors=True)


def main(spec: dict[str, list[str] | list[int] | str]) -> None:
    """Starts the nodes, prints where they are, and waits."""
    from ray.cluster_utils import Cluster

    made, raylets = Cluster(), []
    for number, (folder, cpus) in enumerate(zip(spec["folders"], spec["cpus"], strict=True)):
        # Every node's processes have a different current folder.
        os.chdir(str(folder))
        head: dict[str, Any] = {"temp_dir": spec["temporary"], "include_dashboard": False} if number == 0 else {}
        node = made.add_node(num_cpus=cpus, object_store_memory=100 * 2**20, **head)
        raylets.append(node.all_processes["raylet"][0].process.pid)
    print(json.dumps({"address": made.address, "raylets": raylets}), flush=True)
    sys.stdin.read()
    made.shutdown()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
