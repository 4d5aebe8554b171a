from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from video_files import REPOSITORY, SHARED, write_collection

from components.benchmarks.check import check
from components.task import TaskSettings

TASK = TaskSettings("msrvtt", "data/small", 4, 16)


def run(root: Path, *arguments: str, benchmark: str = "msrvtt") -> subprocess.CompletedProcess[str]:
    (root / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    tasks = f"tasks={{small: {{benchmark: {benchmark}, root: data/small, frames: 4, words: 16}}}}"
    script = [sys.executable, str(REPOSITORY / "pipelines" / "data.py"), "check", "--task", "small"]
    command = [*script, "--root", str(root), "--set", tasks, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_collection(tmp_path / "data" / "small", train=3, val=1, test=2)
    return tmp_path


def test_a_whole_collection_is_complete(root: Path) -> None:
    found = check("small", TASK, root)
    assert found.complete
    counts = {name: (split.videos, split.captions, split.missing) for name, split in found.splits.items()}
    assert counts == {"train": (3, 6, ()), "val": (1, 1, ()), "test": (2, 2, ())}
    assert found.splits["train"].published is None  # video4 is not one of the benchmark's test videos
    done = run(root, "--strict")
    assert done.returncode == 0, done.stderr
    assert "MSRVTT_val.csv: 16 bytes" in done.stdout
    assert done.stdout.splitlines()[-1] == "complete: ingest takes what is there"


def test_missing_videos_are_named_and_fail_only_where_asked(root: Path) -> None:
    (root / "data/small/videos/video1.mp4").unlink()
    (root / "data/small/MSRVTT_val.csv").unlink()
    done = run(root)
    assert done.returncode == 0, done.stderr
    assert "MSRVTT_val.csv: not there, not needed" in done.stdout
    assert re.search(r"missing in (train|val): \S+/data/small/videos/video1\.mp4", done.stdout)
    assert "usable, not complete" in done.stdout
    assert run(root, "--strict").returncode == 1


def test_a_split_without_videos_is_not_usable(root: Path) -> None:
    for name in ("video4", "video5"):
        (root / f"data/small/videos/{name}.mp4").unlink()
    done = run(root)
    assert done.returncode == 1
    assert "not usable: a split has no video file" in done.stdout


def test_missing_annotations_are_part_of_the_answer(root: Path) -> None:
    (root / "data/small/MSRVTT_data.json").unlink()
    done = run(root)
    assert done.returncode == 1
    assert "MSRVTT_data.json: MISSING" in done.stdout
    assert "MSRVTT_JSFUSION_test.csv: " in done.stdout
    assert "not usable: " in done.stdout
    unknown = run(root, benchmark="msrvt")
    assert unknown.returncode == 1
    assert "unknown benchmark; found 'msrvt'" in unknown.stderr


@pytest.mark.skipif(not (SHARED / "annotations" / "msvd").is_dir(), reason="there are no published MSVD files here")
def test_published_counts_are_next_to_those_of_the_copy(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "small"
    (folder / "videos").mkdir(parents=True)
    for path in (SHARED / "annotations" / "msvd").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for name in ("train", "val", "test"):
        (folder / "videos" / f"{(folder / f'{name}_list.txt').read_text().split()[0]}.avi").write_bytes(b"-")
    done = run(tmp_path, benchmark="msvd")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["train", "1,200", "1", "1,199", "48,774", "1,200"] in rows
    assert ["test", "670", "1", "669", "27,763", "670"] in rows
    ids = (folder / "train_list.txt").read_text().split()
    (folder / "train_list.txt").write_text("\n".join(ids[:-1]))
    assert "differs: train has 1,199 videos, published are 1,200" in run(tmp_path, benchmark="msvd").stdout
