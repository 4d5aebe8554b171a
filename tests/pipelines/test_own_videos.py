"""A folder of videos, searched without captions and without training, by the commands of the README."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_world
from video_files import REPOSITORY, write_mp4

SETTINGS = (
    "tasks={mine: {benchmark: table, root: data/mine, frames: 4, words: 16}}",
    "frames.size=32",
    "ray.object_store_mib=128",
)


def run(root: Path, script: str, *arguments: str, option: str = "") -> subprocess.CompletedProcess[str]:
    settings = [part for setting in SETTINGS for part in ([option, setting] if option else [setting])]
    command = [sys.executable, str(REPOSITORY / "pipelines" / script), "--root", str(root), "--task", "mine"]
    return subprocess.run([*command, *settings, *arguments], capture_output=True, text=True, check=False, cwd=root)


@pytest.mark.slow
def test_a_folder_of_videos_is_searched_without_training(tmp_path: Path) -> None:
    tiny_world.write_params(tmp_path)
    tiny_world.write_backbone(tmp_path)
    for number, name in enumerate(("first.mp4", "my holiday.mp4", "third.mp4")):
        write_mp4(tmp_path / "data" / "mine" / "videos" / name, hue=number)
    (tmp_path / "data" / "mine" / "videos" / "broken.mp4").write_bytes(b"-")
    done = run(tmp_path, "ingest.py", "frames.max_failed_share=0.5")
    assert done.returncode == 0, done.stderr
    assert "mine: 3 of 4 videos decoded, 1 failed" in done.stdout
    done = run(tmp_path, "index.py")
    assert done.returncode == 0, done.stderr
    assert "mine: 3 videos indexed with zero_shot (not registered)" in done.stdout
    done = run(tmp_path, "search.py", "a", "red", "square", option="--set")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("first", "data/mine/videos/my holiday.mp4", "third"))
    refused = run(tmp_path, "train.py", "--method", "vop")
    assert refused.returncode == 1
    assert "no training videos" in refused.stderr
    wrong = run(tmp_path, "index.py", "--adapter", "outputs/nowhere")
    assert wrong.returncode == 1
    assert "adapter.json: missing" in wrong.stderr
