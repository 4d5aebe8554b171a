"""pipelines/ingest.py, called as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from video_files import REPOSITORY, SMALL, write_collection

from components.frames.store import FrameStore


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (root / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    script = REPOSITORY / "pipelines" / "ingest.py"
    command = [sys.executable, str(script), "--root", str(root), *arguments, *SMALL]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_videos_become_a_store_and_the_second_run_is_quick(tmp_path: Path) -> None:
    write_collection(tmp_path / "data" / "small", train=3, val=1, test=2)
    assert run(tmp_path, "--task", "small", "--status").stdout == "small: never ingested here\n"
    done = run(tmp_path, "--task", "small")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("small: 6 of 6 videos decoded, 0 failed; ")
    store = FrameStore(tmp_path / "outputs" / "frames" / "small")
    assert store.ids("train") == ["video0", "video1", "video2"]
    again = run(tmp_path, "--task", "small")
    assert again.returncode == 0
    assert "this run: 0 videos in 0.0 s; 6 reused from earlier runs" in again.stdout
    assert "ray" not in again.stderr.lower()
    overwritten = run(tmp_path, "--task", "small", "--overwrite")
    assert "this run: 6 videos in " in overwritten.stdout
    status = run(tmp_path, "--task", "small", "--status")
    assert status.stdout.startswith("small: finished; 6 of 6 videos, 0 failed, ")
    lines = (tmp_path / ".reeltune" / "ingest" / "small" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == [
        *("started", "decoding", *["shard done"] * 4, "finished"),
        *("started", "finished"),
        *("started", "decoding", *["shard done"] * 4, "finished"),
    ]


def test_faults_are_one_line_without_a_traceback(tmp_path: Path) -> None:
    unknown = run(tmp_path, "--task", "smal")
    assert unknown.returncode == 1
    assert "unknown task; found 'smal'; expected one of small (did you mean 'small'?)" in unknown.stderr
    empty = run(tmp_path, "--task", "small")
    assert empty.returncode == 1
    assert "data/small/MSRVTT_train.9k.csv: no such file" in empty.stderr
    assert "Traceback" not in unknown.stderr + empty.stderr
    assert len(empty.stderr.splitlines()) == 1
