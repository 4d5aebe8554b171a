"""A tracking store that is damaged, locked, away or answers nonsense: one line with its address and answer."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from empty_store import write_empty_store
from servers import answering_with, free_address, serving
from test_runs import SETTINGS, start

from components.errors import RegistryError
from components.tracking import client as tracking_client
from components.tracking import database, store
from components.tracking.outbox import Outbox
from components.tracking.runs import TrackedRun


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that has one run."""
    root = tmp_path_factory.mktemp("made")
    write_empty_store(root)
    with start(root) as run:
        run.log(1, {"loss": 1.0})
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "project"))


@pytest.mark.parametrize(
    ("status", "body", "shown"),
    [
        (200, b"<!DOCTYPE html><html><style>p {}</style><body><h1>Welcome</h1> to nginx</body></html>", "Welcome"),
        (403, b"Permission denied by proxy", "403"),
        (404, b"<html>no such page</html>", "404"),
        (500, b"", "500"),
        (200, b"null", "null"),
        (200, b"[" * 100_000, "JSON"),
        (200, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, ""),
        (200, b'{"experiments": 7}', ""),
        (200, b'{"experiments": [{"experiment_id": {}}]}', ""),
        (302, b"", "302"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "you may not"}', "you may not"),
        (500, b'{"error_code": 7}', ""),
        (200, b"\xff\xfe\x00", ""),
    ],
)
def test_a_server_that_answers_nonsense_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, shown: str
) -> None:
    with answering_with(status, body) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(RegistryError, match=f"{address}.*check the address") as refused:
            store.connect(tmp_path, SETTINGS)
    text = str(refused.value)
    assert shown in text
    assert "\n" not in text
    assert len(text) < 900


def test_credentials_in_an_address_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("http://me:secret@127.0.0.1:9", "postgresql://me:secret@127.0.0.1:9/x"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(RegistryError) as refused:
            store.connect(tmp_path, SETTINGS)
        assert "secret" not in str(refused.value)
        assert "127.0.0.1:9" in str(refused.value)
    with answering_with(500, b"") as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("//", "//me:secret@"))
        with pytest.raises(RegistryError) as refused:
            store.connect(tmp_path, SETTINGS)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("damage", ["text", "torn", "zeros", "empty folder"])
def test_a_damaged_database_is_one_line(root: Path, damage: str) -> None:
    file = root / "mlflow.db"
    content = file.read_bytes()
    if damage == "empty folder":
        file.unlink()
        file.mkdir()
    else:
        damaged = {"text": b"no database\n" * 999, "torn": content[: len(content) // 3]}
        file.write_bytes(damaged.get(damage, content[:4096] + bytes(len(content) - 4096)))
    with pytest.raises(
        RegistryError, match=r"mlflow\.db: the tracking store cannot be used; found .*put back"
    ) as refused:
        start(root)
    assert "\n" not in str(refused.value)


def test_a_locked_database_is_waited_for_then_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "SAY_AFTER_SECONDS", 0.2)
    other = sqlite3.connect(root / "mlflow.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RegistryError, match=r"another process has locked the tracking store.*wait until it is done"):
        database.wait_for_writers(root / "mlflow.db", seconds=0.5)
    assert caplog.text.count("is locked by another process, waiting") == 1
    threading.Timer(1.0, other.rollback).start()
    with start(root) as run:
        run.log(2, {"loss": 0.5})
    other.close()
    assert [point.step for point in run.client.get_metric_history(run.run_id, "loss")] == [2]


def away(*_: object, **__: object) -> None:
    raise ConnectionRefusedError("connection refused")


@pytest.mark.slow
def test_metrics_outlast_a_server_that_stops(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = free_address()
    with serving(root, address):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        run = start(root)
        run.__enter__()
        run.log(1, {"loss": 3.0})
    run.log(2, {"loss": 2.0, "val_t2v_R@1": 10.0})
    run.log(3, {"loss": 1.0})
    run.__exit__(None, None, None)
    assert caplog.text.count("metrics are kept in") == 1
    assert "the next run that starts sends it" in caplog.text
    assert len(Outbox(root, run.run_id).read()) == 4
    # As a kill leaves it.
    with Outbox(root, run.run_id).file.open("a") as stream:
        stream.write('{"name": "lo')
    with serving(root, address):
        with start(root) as other:
            pass
        assert other.run_id != run.run_id
        client = store.connect(root, SETTINGS)
        assert client.get_run(run.run_id).info.status == "FINISHED"
        points = client.get_metric_history(run.run_id, "loss")
        assert [(point.step, point.value) for point in points] == [(1, 3.0), (2, 2.0), (3, 1.0)]
        assert [point.value for point in client.get_metric_history(run.run_id, "val_t2v_R1")] == [10.0]
    assert "skipped, not a whole entry" in caplog.text
    assert not Outbox(root, run.run_id).file.exists()


def test_a_store_that_comes_back_gets_the_metrics_in_the_same_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.tracking.runs.RETRY_SECONDS", 0.0)
    with start(root) as run:
        with monkeypatch.context() as patched:
            patched.setattr(run.client._tracking_client.store, "log_batch", away)
            run.log(1, {"loss": 3.0})
        assert len(Outbox(root, run.run_id).read()) == 1
        run.log(2, {"loss": 2.0})
        assert not Outbox(root, run.run_id).file.exists()
    points = run.client.get_metric_history(run.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 3.0), (2, 2.0)]


def test_a_run_beats_while_it_is_open(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.tracking.drivers.BEAT_SECONDS", 0.1)
    with start(root) as run:
        first = run.client.get_run(run.run_id).data.tags["heartbeat"]
        end = time.monotonic() + 20
        while run.client.get_run(run.run_id).data.tags["heartbeat"] == first:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_other_errors_of_mlflow_keep_their_code(root: Path) -> None:
    client = store.connect(root, SETTINGS)
    with pytest.raises(tracking_client.StoreError) as refused:
        TrackedRun(client, "0" * 32, root).log_params({"a": 1})
    assert refused.value.code == "RESOURCE_DOES_NOT_EXIST"
