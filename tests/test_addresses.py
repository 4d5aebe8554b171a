"""RAY_ADDRESS in each form, with nothing behind it: the same one-line error within seconds."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.addresses import cluster_address
from components.errors import ReelTuneError

EXPECTED = r"^RAY_ADDRESS: no Ray cluster answers; found .*; expected host:port of a running head; start one, or unset"


@pytest.fixture
def web() -> Iterator[str]:
    """A web server, such as MLflow's or Ray's dashboard."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:9",
        "[::1]:9",
        "http://127.0.0.1:8265",
        "https://head.invalid",
        "ray://127.0.0.1:10001",
        "anyscale://cluster",
        "no-such-host.invalid:6379",
        "localhost",
        "localhost:",
        "localhost:port",
        "127.0.0.1:99999",
        ":6379",
    ],
)
def test_nothing_answers(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ReelTuneError, match=EXPECTED) as raised:
        cluster_address()
    assert repr(address) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["web", "silent"])
def test_something_else_answers(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.addresses.ANSWER_SECONDS", 2.0)
    monkeypatch.setenv("RAY_ADDRESS", request.getfixturevalue(kind))
    with pytest.raises(ReelTuneError, match=EXPECTED):
        cluster_address()


def test_a_job_s_address_says_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(ReelTuneError, match="http:// is for `ray job submit --address`"):
        cluster_address()


@pytest.mark.parametrize("address", ["", "  ", "local"])
def test_a_local_cluster(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster_address() is None


ALONE = ["unshare", "--pid", "--fork", "--mount-proc"]


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*ALONE, "true"], capture_output=True).returncode != 0,
    reason="cannot hide the clusters that run on this machine",
)
def test_auto_where_no_cluster_runs(tmp_path: Path) -> None:
    code = "from components.addresses import cluster_address; cluster_address()"
    environment = {**os.environ, "RAY_ADDRESS": "auto", "PYTHONPATH": os.pathsep.join(sys.path)}
    # Ray notes the address of the last cluster there, which may be one of another test.
    environment["RAY_TMPDIR"] = str(tmp_path)
    done = subprocess.run(
        [*ALONE, sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert "no Ray cluster answers; found 'auto'" in done.stderr.splitlines()[-1]
