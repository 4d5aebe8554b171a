"""A folder of videos, searched without captions and without training, by the commands of the README."""

from __future__ import annotations

import os
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import tiny_world
from scripts import run_script
from video_files import write_mp4

SETTINGS = (
    "tasks={mine: {benchmark: table, root: data/mine, frames: 4, words: 16}}",
    "frames.size=32",
    "ray.object_store_mib=128",
)


def run(root: Path, script: str, *arguments: str, option: str = "") -> CompletedProcess[str]:
    settings = [part for setting in SETTINGS for part in ([option, setting] if option else [setting])]
    action = ["check"] if script == "data.py" else []
    return run_script(script, root, *action, "--task", "mine", *settings, *arguments)


FILMS = ("first.mp4", "my holiday.mp4", "third.mp4", "first.mov", "2021/first.mp4", "2021/märz.mp4")
# What other systems leave among the videos: companions of macOS, a name that is not UTF-8, notes.
NO_FILMS = (*(f"._{name}" for name in FILMS[:4]), os.fsdecode(b"caf\xe9.mp4"), "..mp4", "notes.txt")


@pytest.fixture(scope="module")
def root(shared_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos, ingested: six films, one broken file, and what is no video."""
    folder = tmp_path_factory.mktemp("own")
    tiny_world.write_params(folder)
    tiny_world.write_backbone(folder)
    videos = folder / "data" / "mine" / "videos"
    for number, name in enumerate(FILMS):
        write_mp4(videos / name, hue=number)
    for name in ("broken.mp4", *NO_FILMS):
        (videos / name).write_bytes(b"-")
    done = run(folder, "ingest.py")
    assert done.returncode == 0, done.stderr
    assert "mine: 6 of 7 videos decoded, 1 failed" in done.stdout
    assert "5 left out: hidden, the name starts with a dot: videos/..mp4, videos/._first.mov" in done.stderr
    assert r"1 left out: name is not UTF-8 (rename it): videos/caf\xe9.mp4" in done.stderr
    assert "1 left out: no ending of a video" in done.stderr
    return folder


@pytest.mark.slow
def test_a_folder_of_videos_is_searched_without_training(root: Path) -> None:
    done = run(root, "data.py", option="--set")
    assert done.returncode == 0, done.stderr
    assert "files: 14 found = 7 read + 7 left out" in done.stdout
    done = run(root, "index.py")
    assert done.returncode == 0, done.stderr
    assert "mine: 6 videos indexed with zero_shot (not registered)" in done.stdout
    done = run(root, "search.py", "a", "red", "square", option="--set")
    assert done.returncode == 0, done.stderr
    assert all(f"data/mine/videos/{name}" in done.stdout for name in FILMS)
    refused = run(root, "train.py", "--method", "vop")
    assert refused.returncode == 1
    assert "no training videos" in refused.stderr
    assert "describe its videos in captions.csv (columns video, caption), and run ingest again" in refused.stderr
    wrong = run(root, "index.py", "--adapter", "outputs/nowhere")
    assert wrong.returncode == 1
    assert "adapter.json: missing" in wrong.stderr


@pytest.mark.slow
def test_a_small_table_whose_only_validation_video_is_broken_goes_to_an_index_of_the_others(root: Path) -> None:
    splits = ["train"] * (len(FILMS) - 1) + ["test"]
    rows = "".join(f'{name},"a film, number {number}",{splits[number]}\n' for number, name in enumerate(FILMS))
    table = root / "data" / "mine" / "captions.csv"
    table.write_text(f"video,caption,split\n{rows}broken.mp4,nothing,val\n", encoding="utf-8")
    done = run(root, "ingest.py")
    assert done.returncode == 0, done.stderr
    assert "mine: 6 of 7 videos decoded, 1 failed" in done.stdout
    assert "task mine: no video of the split val could be decoded (unreadable: broken). The others" in done.stderr
    done = run(root, "train.py", "--method", "zero_shot")
    assert done.returncode == 0, done.stderr
    done = run(root, "index.py", "--adapter", "outputs/adapters/mine/zero_shot-0")
    assert done.returncode == 0, done.stderr
    assert "mine: 6 videos indexed" in done.stdout
    # What has to have such a video names it, and the cure cures.
    done = run(root, "evaluate.py", "--method", "zero_shot")
    assert done.returncode == 1
    assert "split val" in done.stderr
    assert "replace its videos, or take them out of the collection, and run ingest again" in done.stderr
    table.write_text(f"video,caption\n{rows.replace(',train', '').replace(',test', '')}", encoding="utf-8")
    assert run(root, "ingest.py").returncode == 0
    done = run(root, "evaluate.py", "--method", "zero_shot")
    assert done.returncode == 0, done.stderr
