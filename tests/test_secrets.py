"""Credentials are in no message, and settings that hold some are refused before anything is recorded."""

from __future__ import annotations

import pickle
import sqlite3
from pathlib import Path

import pytest
import tiny_world

from components.errors import ConfigError, DataError, ReelTuneError, without_secrets
from components.tracking.runs import start_run
from components.tracking.store import connect


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://AKIAABCDEFGHIJKLMNOP:abc/def+g@bucket/x", "s3://***@bucket/x"),
        ("http://me:pw@server:5000/", "http://***@server:5000/"),
        ("postgresql+psycopg2://me:p%40w@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("a token in https://token@host/x and b@c.org", "a token in https://***@host/x and b@c.org"),
        ("s3://bucket/x?access_key=abc&region=eu", "s3://bucket/x?access_key=***&region=eu"),
        ("https://host/x?X-Amz-Signature=0a1b&y=1", "https://host/x?X-Amz-Signature=***&y=1"),
        ("the key AKIAABCDEFGHIJKLMNOP is old", "the key *** is old"),
        ("the value is from-the-environment!", "the value is ***!"),
    ],
)
def test_credentials_are_blanked(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "from-the-environment")
    assert without_secrets(text) == shown
    error = DataError("cannot be read", where=text)
    assert str(error) == f"{shown}: cannot be read"
    assert text not in pickle.loads(pickle.dumps(error)).args[0]


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/key@v2/clip.mp4",
        "s3://bucket/train?endpoint_override=minio:9000&scheme=http",
        "file:///data/a:b/c@d.mp4",
        "git@host:me/repository.git, words=77, tokens=32, 3 tokens; found 'key=value'",
        "http://127.0.0.1:5000/#/models",
        "hf-hub:org/model and local-dir:weights",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_the_place_of_a_token_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/run/ray/auth_token")
    assert without_secrets("/run/ray/auth_token: missing") == "/run/ray/auth_token: missing"


@pytest.mark.parametrize("key", ["execution.storage", "tasks.tiny.root", "frames.store", "backbone.pretrained"])
def test_a_setting_with_credentials_is_refused(key: str, tmp_path: Path) -> None:
    tiny_world.write_params(tmp_path)
    with pytest.raises(ConfigError) as caught:
        tiny_world.params(tmp_path, f"{key}=s3://KEY:HUNTER2@bucket/x")
    assert f"{key}: credentials in a setting, which is recorded, found 's3://***@bucket/x'" in str(caught.value)
    assert "HUNTER2" not in str(caught.value)


def test_the_tracking_store_s_password_is_used_and_not_shown(tmp_path: Path) -> None:
    tiny_world.write_params(tmp_path)
    settings = tiny_world.params(tmp_path, "tracking.uri=http://me:hunter2@127.0.0.1:9").tracking
    with pytest.raises(ReelTuneError) as caught:
        connect(tmp_path, settings)
    assert settings.uri == "http://me:hunter2@127.0.0.1:9"
    assert "http://***@127.0.0.1:9" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_mlflow_records_no_credential(tmp_path: Path) -> None:
    tiny_world.write_params(tmp_path)
    settings = tiny_world.params(tmp_path).tracking
    secret = {"url": "s3://KEY:SE/CRET@bucket/x"}
    with start_run(
        tmp_path, settings, task="tiny", method="vop", seed=0, params=secret, provenance=secret, tags={"t": [secret]}
    ) as run:
        run.tag({"later": secret})
    assert b"SE/CRET" not in (tmp_path / "mlflow.db").read_bytes()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select value from params").fetchall() == [("s3://***@bucket/x",)]
