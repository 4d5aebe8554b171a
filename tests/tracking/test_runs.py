from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from components import config, liveness
from components.errors import RegistryError
from components.tracking import store
from components.tracking.runs import TrackedRun, start_run
from components.tracking.settings import TrackingSettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from empty_store import write_empty_store  # the processes below import this module, and not that folder

    folder = tmp_path_factory.mktemp("tracking")
    write_empty_store(folder)
    return folder


@pytest.fixture(autouse=True)
def _without_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


SETTINGS = config.check(
    TrackingSettings,
    {"uri": "sqlite:///mlflow.db", "methods": ["vop"], "alias": "champion", "metric": "t2v_R@1", "margin": 1.0},
    "test",
)


def start(root: Path, **changes: object) -> TrackedRun:
    arguments = {
        "task": "tiny",
        "method": "vop",
        "seed": 0,
        "params": {"training": {"epochs": 2, "sizes": [1, 2]}},
        "provenance": {"commit": "abc", "packages": {"torch": "2"}},
        **changes,
    }
    return start_run(root, SETTINGS, **arguments)  # type: ignore[arg-type]


def test_a_run_keeps_parameters_tags_and_metrics_over_steps(root: Path) -> None:
    with start(root, tags={"store": "f00"}) as run:
        run.log(1, {"val_t2v_R@1": 10.0})
        # Another process has only the store's settings and the run's id.
        TrackedRun(store.connect(root, SETTINGS), run.run_id, root).log(2, {"val_t2v_R@1": 20.0, "loss": 0.5})
    stored = run.client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"training.epochs": "2", "training.sizes": "[1, 2]"}
    assert {
        "commit": "abc",
        "packages.torch": "2",
        "store": "f00",
        "method": "vop",
        "seed": "0",
    }.items() <= stored.data.tags.items()
    history = run.client.get_metric_history(run.run_id, "val_t2v_R1")
    assert [(point.step, point.value) for point in history] == [(1, 10.0), (2, 20.0)]


def test_a_point_that_a_run_has_is_not_logged_twice(root: Path) -> None:
    with start(root) as run:
        run.log(1, {"val_t2v_R@1": 10.0, "loss": 0.5})
        run.log(1, {"val_t2v_R@1": 10.0, "loss": 0.25})
    with start(root) as again:
        assert again.run_id != run.run_id
        again.log(1, {"loss": 0.5})
    # Another process that continues the run.
    TrackedRun(run.client, run.run_id, root).log(1, {"loss": 0.5, "val_t2v_R@1": 10.0})
    points = {
        name: [(point.step, point.value) for point in run.client.get_metric_history(run.run_id, name)]
        for name in ("val_t2v_R1", "loss")
    }
    assert points == {"val_t2v_R1": [(1, 10.0)], "loss": [(1, 0.5), (1, 0.25)]}
    assert len(run.client.get_metric_history(again.run_id, "loss")) == 1


def test_artifacts_are_next_to_the_database_whatever_the_working_directory(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "a.json").write_text("{}")
    with start(root) as run:
        run.log_folder(tmp_path / "cards", "scorecards")
    assert list((root / "mlartifacts" / "tiny").rglob("scorecards/a.json"))
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_failed_run_is_not_left_running(root: Path, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), start(root) as run:
        raise error
    assert run.client.get_run(run.run_id).info.status == status


CHILD = """
import sys, time
from pathlib import Path
from tests.tracking.test_runs import start
with start(Path(sys.argv[1]), resume="same work") as run:
    print(run.run_id, flush=True)
    time.sleep(60)
"""


def _child(root: Path) -> tuple[subprocess.Popen[str], str]:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(root)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    return child, child.stdout.readline().strip()


@pytest.mark.slow
def test_a_terminated_process_ends_its_run(root: Path) -> None:
    child, run_id = _child(root)
    child.terminate()
    assert child.wait(30) == 128 + signal.SIGTERM
    assert store.connect(root, SETTINGS).get_run(run_id).info.status == "KILLED"


@pytest.mark.slow
def test_a_killed_training_continues_its_run_and_a_finished_one_never_does(root: Path) -> None:
    child, run_id = _child(root)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(30)
    client = store.connect(root, SETTINGS)
    assert client.get_run(run_id).info.status == "RUNNING"
    with start(root, resume="other work") as other:
        pass
    assert client.get_run(run_id).info.status == "KILLED"
    assert other.run_id != run_id
    with start(root, resume="same work") as again:
        assert again.run_id == run_id
        assert client.get_run(run_id).info.status == "RUNNING"
    with start(root, resume="same work") as fresh:
        assert fresh.run_id != run_id


@pytest.mark.slow
def test_processes_that_make_the_store_together_do_not_break_each_other(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.tracking.test_runs import start\n"
        "with start(Path(sys.argv[1])): pass"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    children = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [child.communicate(timeout=120)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], errors
    client = store.connect(tmp_path, SETTINGS)
    assert len(client.search_runs([store.experiment_id(client, "tiny")])) == 3


def test_a_silent_server_is_named_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RegistryError, match=r"no MLflow server answers.*127\.0\.0\.1:9"):
        store.connect(root, SETTINGS)


def test_the_environment_wins_and_sqlite_paths_become_absolute(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.tracking_uri(root, SETTINGS) == f"sqlite:///{root}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/x.db")
    assert store.tracking_uri(root, SETTINGS) == "sqlite:////elsewhere/x.db"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:////a b#c%3Fd%2541/mlflow.db"),
        ("sqlite:///runs%3F.db?timeout=9", "sqlite:////a b#c%3Fd%2541/runs%3F.db?timeout=9"),
        ("sqlite:////x/y%20z.db", "sqlite:////x/y z.db"),
        ("postgresql://server/db?x=1", "postgresql://server/db?x=1"),
    ],
)
def test_paths_are_quoted_in_the_uri(uri: str, expected: str) -> None:
    settings = dataclasses.replace(SETTINGS, uri=uri)
    assert store.tracking_uri(Path("/a b#c?d%41"), settings) == expected


def test_a_root_with_signs_that_mean_something_in_a_uri_works(tmp_path: Path) -> None:
    root = tmp_path / "a b#c?d%41"
    root.mkdir()
    (root / "cards").mkdir()
    (root / "cards" / "a.json").write_text("{}")
    with start(root) as run:
        run.log_folder(root / "cards", "scorecards")
    assert (root / "mlflow.db").stat().st_size > 0
    assert list((root / "mlartifacts" / "tiny").rglob("scorecards/a.json"))
    assert [path for path in tmp_path.rglob("*") if path.is_file() and root not in path.parents] == []


@pytest.mark.parametrize("name", ["it's", 'a "good" task', "50 % of it", "tasks.name = 'x' or"])
def test_names_are_quoted_in_filters(root: Path, name: str) -> None:
    with pytest.raises(ValueError, match="stopped"), start(root, task=name, method=name, resume="work") as run:
        raise ValueError("stopped")
    with start(root, task=name, method=name, resume="work") as again:
        assert again.run_id == run.run_id


def test_a_name_with_both_quotes_is_refused(root: Path) -> None:
    with pytest.raises(RegistryError, match="MLflow cannot search for this name"):
        start(root, method="""it's "good\"""")


OTHER_PROCESS = liveness.identity().rpartition("/")[0] + "/1"  # the same id, started at another time


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ({"pid": str(os.getpid())}, "RUNNING"),
        ({"pid": "1"}, "RUNNING"),  # may be another user's
        ({"pid": "999999999"}, "KILLED"),
        ({"pid": "0"}, "KILLED"),
        ({"pid": ""}, "KILLED"),
        ({"pid": str(os.getpid()), "process": liveness.identity()}, "RUNNING"),
        ({"pid": str(os.getpid()), "process": OTHER_PROCESS}, "KILLED"),
        ({"pid": str(os.getpid()), "process": "another boot/1/1"}, "KILLED"),
        ({"pid": "999999999", "host": "another-machine"}, "RUNNING"),
    ],
)
def test_runs_without_their_process_are_ended(root: Path, tags: dict[str, str], status: str) -> None:
    client = store.connect(root, SETTINGS)
    experiment = store.experiment_id(client, "tiny")
    every = {"host": socket.gethostname(), "resume": "the same work", **tags}
    left = client.create_run(experiment, run_name="vop-0", tags=every).info.run_id
    with start(root) as run:
        assert run.run_id != left
        assert client.get_run(left).info.status == status
    client.delete_run(left)


def test_a_run_says_which_process_it_belongs_to(root: Path) -> None:
    with start(root) as run:
        tags = run.client.get_run(run.run_id).data.tags
    assert tags["host"] == socket.gethostname()
    assert tags["pid"] == str(os.getpid())
    assert liveness.is_alive(tags["process"])
