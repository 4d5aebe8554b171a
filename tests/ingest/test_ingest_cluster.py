"""Ingest on three raylets: a lost machine, a lost worker and a signal change no byte of the store."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_ingest_ray import DRIVER
from test_reuse import run
from video_files import REPOSITORY, SMALL, small_params, tree_bytes, write_collection

from components.benchmarks.reader import read_manifest
from components.cluster import LOOPBACK
from components.ingest.decoders import DECODERS
from components.ingest.progress import status
from components.ingest.run import read_settings
from components.layout import Layout

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
DECODERS.register("journal", "bad_decoders:journal")
SETTINGS = [*SMALL, "frames.decoder=journal", "frames.max_failed_share=0.5"]

# Raylets on loopback, with one core each. It prints the address and the raylets' process ids, and ends with its input.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
local = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=local)
others = [cluster.add_node(**local) for _ in range(2)]
print("address", cluster.address, *(node.all_processes["raylet"][0].process.pid for node in others), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of drivers and clusters: loopback only, and the decoders' journal."""
    (tmp_path / "journal").mkdir()
    ours = {
        **LOOPBACK,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(REPOSITORY)]),
        "REELTUNE_TEST_JOURNAL": str(tmp_path / "journal"),
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    return {**{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}, **ours}


@pytest.fixture
def cluster(environment: dict[str, str], tmp_path: Path) -> Iterator[list[str]]:
    """The address, and the process ids of two of the three raylets."""
    with (tmp_path / "cluster").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER], env=environment, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        assert process.stdout is not None
        words = next((line.split()[1:] for line in process.stdout if line.startswith("address ")), [])
        assert words, (tmp_path / "cluster").read_text()
        yield words
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("collection")
    write_collection(root / "data" / "small", train=12, val=2, test=4)
    (root / "data" / "small" / "videos" / "video3.mp4").unlink()
    return root


@pytest.fixture
def expected(collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The store that one process makes without Ray."""
    (tmp_path / "alone").mkdir()
    monkeypatch.setenv("REELTUNE_TEST_JOURNAL", str(tmp_path / "alone"))
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    return tree_bytes(alone(collection))


def alone(root: Path) -> Path:
    params = small_params(root, *SETTINGS)
    task = params.task("small")
    return run(root, read_manifest("small", task, root), read_settings(task, params.frames))


def new_root(collection: Path, root: Path) -> Path:
    (root / "data").mkdir(parents=True)
    (root / "data" / "small").symlink_to(collection / "data" / "small")
    small_params(root)
    return root


def drive(root: Path, environment: dict[str, str], *settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DRIVER, str(root), *SETTINGS, *settings]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def twice(journal: Path) -> set[int]:
    """Returns the numbers of the shards with a video that was decoded more than once."""
    calls = Counter(journal.read_text().split())
    return {int(name.removeprefix("video")) // 2 for name, count in calls.items() if count > 1}


def test_a_lost_machine_worker_or_child_costs_only_its_shards_in_progress(
    collection: Path, expected: dict[str, bytes], environment: dict[str, str], cluster: list[str], tmp_path: Path
) -> None:
    address, raylet, _ = cluster
    on_cluster = {**environment, "RAY_ADDRESS": address}
    journal = tmp_path / "journal" / "journal"
    for victim, calls in ((raylet, 6), ("worker", 5), ("child", 4)):
        root = new_root(collection, tmp_path / f"root-{victim}")
        journal.unlink(missing_ok=True)
        (tmp_path / "journal" / "kill").write_text(f"{victim} {calls}")
        done = drive(root, on_cluster)
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "journal" / "kill").exists()
        assert "17 of 18 videos decoded, 1 failed" in done.stdout
        assert tree_bytes(Layout(root).frames("small")) == expected
        assert len(twice(journal)) <= 1


def test_a_stopped_ingest_says_how_to_continue(
    collection: Path,
    expected: dict[str, bytes],
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = new_root(collection, tmp_path / "root")
    command = [sys.executable, "-c", DRIVER, str(root), *SETTINGS, "ray.num_cpus=1"]
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        (tmp_path / "journal" / "kill.new").write_text(f"{driver.pid} 9 SIGTERM")
        (tmp_path / "journal" / "kill.new").rename(tmp_path / "journal" / "kill")
        assert driver.wait(timeout=120) == 1
    assert (
        "task small: interrupted by SIGTERM; finished shards are kept; the same command continues from there"
        in (tmp_path / "log").read_text()
    )
    assert not Layout(root).frames("small").exists()
    lines = status(Layout(root).ingest_work("small")).splitlines()
    assert lines[0].startswith("small: interrupted; ")
    assert lines[1].startswith("  last event: interrupted at ")
    assert lines[2:] == [
        "  missing_file 1 (no file under the manifest's uri)",
        "  the same command continues from there",
    ]
    (tmp_path / "again").mkdir()
    monkeypatch.setenv("REELTUNE_TEST_JOURNAL", str(tmp_path / "again"))
    assert tree_bytes(alone(root)) == expected
    again = (tmp_path / "again" / "journal").read_text().split()
    assert "video17" in again
    assert not {"video0", "video1"} & set(again)
