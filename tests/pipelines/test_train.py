"""The train stage under Ray: a fault is one clear error, a job writes into the root, and only some settings decide."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import tiny_world
from empty_store import write_empty_store
from scripts import run_script

from components.adapters.file import load_adapter, read_card, save_adapter
from components.backbones.load import load_backbone
from components.config import parse_yaml
from components.errors import ReelTuneError
from components.evaluation.evaluate import evaluate
from components.evaluation.validation import Validation
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.build import build
from components.tracking.store import connect
from components.training.distributed import train
from components.training.job import Job
from components.training.settings import TrainingSettings

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tiny_world.write_project(tmp_path)
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a stage, without variables of a cluster that happens to run."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # Jobs start as `python`, as in an activated environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**clean, "PATH": path, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def stage(script: str, root: Path, environment: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "pipelines" / script), "--root", str(root), *args]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_stages_without_ray_and_evaluation(root: Path) -> None:
    arguments = ("--task", tiny_world.TASK, "--method", "zero_shot")
    trained = run_script("train.py", root, *arguments)
    assert trained.returncode == 0, trained.stderr
    assert "tiny-zero_shot-0: 0 parameters" in trained.stdout
    folder = root / "outputs" / "adapters" / tiny_world.TASK / "zero_shot-0"
    record = json.loads((folder / "training.json").read_text())
    assert (record["steps"], record["epochs"], record["parameters"]["trainable"]) == (0, 0, 0)
    assert record["mlflow_run_id"]
    cards = root / "outputs" / "scorecards" / tiny_world.TASK / "zero_shot-0"
    cards.mkdir(parents=True)
    (cards / "test.json").write_text("of an earlier run")
    done = run_script("evaluate.py", root, *arguments)
    assert done.returncode == 0, done.stderr
    card = json.loads((cards / "test.json").read_text())
    assert (card["split"], card["seed"], card["frames"], card["words"]) == ("test", 0, tiny_world.FRAMES, 16)
    assert card["parameters"]["total"] == record["parameters"]["total"] > 0
    assert {path.name for path in cards.iterdir()} == {
        "test.json", "test.txt", "test-ranks.parquet", "val.json", "val.txt", "val-ranks.parquet",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "method", "override", "message"),
    [
        ("tiny", "mv_adaptor", "training.epochs=2", "unknown method; found 'mv_adaptor'"),
        ("tony", "vop", "training.epochs=2", "unknown task; found 'tony'"),
        ("tiny", "vop", "backbone.model=ViT-B-23", "no such backbone"),
        ("tiny", "vop", "backbone.model=ViT-B-33", "ViT-B-32"),
        ("tiny", "mv_adapter", "methods.mv_adapter.lr=fast", "lr: input should be a valid number, found 'fast'"),
        ("tiny", "vop", "methods.vop.video_prompts=-1", "methods.vop"),
        (
            "tiny",
            "vop",
            "training.batch_size=50",
            "fewer training videos than one batch; found 50; expected at most 24",
        ),
        ("tiny", "zero_shot", "tasks.tiny.frames=12", "tasks.tiny.frames: the frame store was made with another"),
        ("tiny", "vop", "tasks.tiny.frames=3", "found 3; expected 4, as in "),
        (
            "tiny",
            "adapter_attn",
            "methods.adapter_attn.bottleneck=100000000000",
            "methods.adapter_attn: the parameters do",
        ),
    ],
)
def test_faults_show_before_anything_starts(root: Path, task: str, method: str, override: str, message: str) -> None:
    with pytest.raises(ReelTuneError, match=re.escape(message)):
        Job.of(root, tiny_world.params(root, override), task, method, 0).plan()


def test_a_scorecard_states_the_frames_of_the_store(root: Path, tmp_path: Path) -> None:
    """The adapter takes more frames than the store has."""
    params = tiny_world.params(root)
    backbone = load_backbone(params.backbone, root)
    method = build("zero_shot", {}, backbone, frames=tiny_world.FRAMES + 3, words=16)
    save_adapter(tmp_path / "adapter", method, task=tiny_world.TASK, provenance={})
    card = read_card(tmp_path / "adapter")
    store = FrameStore(Layout(root).frames(tiny_world.TASK))
    made = evaluate(load_adapter(tmp_path / "adapter", backbone), store, "test", card, 0, params.evaluation)
    assert (card.frames, made.card.frames) == (tiny_world.FRAMES + 3, tiny_world.FRAMES)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s4://bucket/train", "s4://bucket/train"),
        (
            "params.yaml",
            "execution.storage: not usable; found 'params.yaml'; expected a folder or URI that can",
        ),
    ],
)
def test_no_such_storage(root: Path, place: str, message: str) -> None:
    job = Job.of(root, tiny_world.params(root, f"execution.storage={place}"), "tiny", "vop", 0)
    with pytest.raises(ReelTuneError, match=re.escape(message)):
        train(job, job.plan(), Validation(5), lambda step, metrics: None)


def key(root: Path, *overrides: str, seed: int = 0) -> str:
    """The key of a VoP training: it covers everything that decides the adapter."""
    return Job.of(root, tiny_world.params(root, *overrides), "tiny", "vop", seed).plan().key


# Another value of every field.
EXECUTION = {
    "checkpoint_steps": "3",
    "keep_checkpoints": "9",
    "storage": "elsewhere",
    "workers": "1",
    "cache_mib": "0",
    "decode_threads": "4",
    "index_workers": "3",
    "timeout_seconds": "9.0",
    "max_failures": "7",
}
TRAINING = {
    "epochs": "3",
    "batch_size": "9",
    "batching": "random",
    "hard_group": "3",
    "last_batch": "keep",
    "captions_per_video": "2",
    "augmentation": "crop_flip",
    "warmup_share": "0.2",
    "weight_decay": "0.2",
    "decay": "all",
    "equal_captions": "positives",
    "loss": "softmax",
    "max_grad_norm": "2.0",
    "validation_every": "2",
    "select_on": "val",
    "threads": "2",
    "micro_batches": "2",
    "grad_cache": "true",
    "checkpoint_activations": "true",
    "cache_frozen": "true",
    "precision": "bfloat16",
}


def test_how_a_training_is_carried_out_never_makes_another_adapter(root: Path) -> None:
    """Two jobs that differ in every execution setting, and in another method, have one key."""
    settings = tiny_world.params(root).execution
    changed = dataclasses.asdict(tiny_world.execution(root, **typed(EXECUTION)))
    assert EXECUTION.keys() == changed.keys()
    assert not [name for name, value in changed.items() if value == getattr(settings, name)]
    overrides = [f"execution.{name}={value}" for name, value in EXECUTION.items()]
    assert key(root, *overrides, "methods.full.lr=0.5") == key(root)


def test_everything_that_decides_an_adapter_makes_another_training(root: Path) -> None:
    assert TRAINING.keys() == {field.name for field in dataclasses.fields(TrainingSettings)}
    overrides = [f"training.{name}={value}" for name, value in TRAINING.items()]
    overrides += ["methods.vop.lr=0.5", "tasks.tiny.words=9"]
    keys = {key(root), key(root, seed=1), *(key(root, item) for item in overrides)}
    assert len(keys) == len(overrides) + 2


def typed(settings: dict[str, str]) -> dict[str, object]:
    return {name: parse_yaml(value, name) for name, value in settings.items()}


@pytest.mark.slow
def test_a_fault_of_a_stage_is_one_line(root: Path, environment: dict[str, str]) -> None:
    done = stage("train.py", root, environment, "--task", "tiny", "--method", "vop", "training.batch_size=50")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "fewer training videos than one batch" in line


@pytest.fixture
def head(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """A separate Ray head on loopback, which ends by its process ids. Gives the environment to reach it."""
    # The workers' ports start at the largest one. Ray ends if another of these ports is among them.
    ports = sorted(free_ports(5))
    # A socket path has at most 107 bytes, and pytest's folders leave too few of them.
    temporary = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    token = temporary / "token"
    token.write_text(secrets.token_hex(32))
    variables = {
        **environment,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port", "min-worker-port")
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    command += [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    command += [f"--max-worker-port={ports[4] + 200}", "--dashboard-host=127.0.0.1", "--num-cpus=2"]
    command += [f"--temp-dir={temporary}", f"--object-store-memory={128 * 2**20}", "--include-dashboard=true"]
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(ports[1], process)
        yield {**variables, "RAY_ADDRESS": f"http://127.0.0.1:{ports[1]}"}
    finally:
        end(process)
        shutil.rmtree(temporary, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for listener in sockets:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"ray start ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail("the Ray head did not start within two minutes")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends the head and everything that it started, and nothing else."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):  # it did not start, and the reason is reported already
        head = psutil.Process(process.pid)
        family = [head, *head.children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(signal.SIGTERM)
    # Some of Ray's servers ignore the signal.
    _, alive = psutil.wait_procs(family, timeout=5)
    for member in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


@pytest.mark.slow
def test_a_submitted_job_writes_into_the_root(root: Path, head: dict[str, str]) -> None:
    write_empty_store(root)
    script = ["python", "pipelines/train.py", "--root", str(root), "--task", tiny_world.TASK, "--method", "vop"]
    submit = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--working-dir", ".", "--"]
    done = subprocess.run([*submit, *script], cwd=REPOSITORY, env=head, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = root / "outputs" / "adapters" / tiny_world.TASK / "vop-0"
    record = json.loads((folder / "training.json").read_text())
    assert record["workers"] == 2
    load_adapter(folder, load_backbone(tiny_world.params(root).backbone, root))
    client = connect(root, tiny_world.params(root).tracking)
    assert client.get_run(record["mlflow_run_id"]).info.status == "FINISHED"
