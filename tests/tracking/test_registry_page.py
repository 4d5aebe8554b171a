"""The registry as people see it, in a real browser on a real MLflow server."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trained_world
from empty_store import write_empty_store
from registered_world import model_config
from servers import free_address, serving
from trained_world import TASK

from components.tracking.alias import alias_holder
from components.tracking.database import NoAliasError
from components.tracking.evaluated import read_evaluated
from components.tracking.registry import ModelRegistry
from components.tracking.store import connect

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TASKS = ("one-task", "another-task")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server whose store has two models with two versions each."""
    root = tmp_path_factory.mktemp("served")
    params = trained_world.write_trained(root)
    write_empty_store(root)
    trained_world.set_metric(root, "vop", 0, 10.0)
    trained_world.set_metric(root, "mv_adapter", 0, 90.0)
    client = connect(root, params.tracking)
    for task in TASKS:
        registry = ModelRegistry(client, root, params.tracking, task)
        code = ROOT / "components" / "search" / "pyfunc.py"
        config = model_config(params, root)
        found = [read_evaluated(root, TASK, method, 0) for method in trained_world.METHODS]
        registry.promote([registry.register(one, code=code, config=config, provenance={}) for one in found])
    address = free_address()
    with serving(root, address):
        yield address


def _seen(address: str, profile: Path) -> str:
    """The text of a page after its scripts have run."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no browser: `apt-get install chromium` (or Google Chrome) makes this test run")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=25000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", done.stdout, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_registry_page_shows_model_versions_and_alias(server: str, task: str, tmp_path: Path) -> None:
    text = ""
    for attempt in range(3):  # a busy machine may not load the page's scripts within the browser's time
        if f"Registered Models {task} " not in text:
            text = _seen(f"{server}/#/models/{task}", tmp_path / str(attempt))
    assert f"Registered Models {task} " in text
    rows = re.split(r"Version (?=[12] )", text.partition("Registered at")[2])[1:]
    held = {row[0]: "@ champion" in row for row in rows}
    assert held == {"1": False, "2": True}, text
    methods = {row[0]: re.findall(r"method : (\w+)", row) for row in rows}
    assert methods == {"1": ["vop"], "2": ["mv_adapter"]}


@pytest.mark.slow
def test_stages_work_against_a_server(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    params = trained_world.write_trained(tmp_path, ("vop",))
    client = connect(tmp_path, params.tracking)
    assert client.tracking_uri == server
    registry = ModelRegistry(client, tmp_path, params.tracking, "served-task")
    code = ROOT / "components" / "search" / "pyfunc.py"
    config = model_config(params, tmp_path)
    adapter = read_evaluated(tmp_path, TASK, "vop", 0)
    versions = [registry.register(adapter, code=code, config=config, provenance={}) for _ in range(2)]
    registry.promote(versions[:1])
    assert [version.number for version in versions] == ["1", "1"]
    assert "put back" not in caplog.text
    assert alias_holder(tmp_path, params.tracking, "served-task") == "1"
    assert alias_holder(tmp_path, params.tracking, "no such task") is None
    registry.export_champion(tmp_path / "champion")
    one, two = (folder / "adapter.safetensors" for folder in (tmp_path / "champion", adapter.folder))
    assert one.read_bytes() == two.read_bytes()
    assert not (tmp_path / "mlflow.db").exists()
    client.delete_registered_model_alias("served-task", "champion")
    with pytest.raises(NoAliasError, match=r"register\.py --task served-task"):
        alias_holder(tmp_path, params.tracking, "served-task")
