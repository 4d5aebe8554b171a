"""The index stage is killed in the middle. The same command embeds the rest, and the bytes are those of one run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_world
import trained_world
from scripts import run_script
from tiny_world import TASK
from video_files import REPOSITORY, tree_bytes

from components.frames.store import FrameStore
from components.layout import Layout
from components.search.card import SegmentCard
from components.search.embed import BATCHES, Embedder
from components.search.rows import Row

SETTINGS = ("evaluation.batch_size=2", "execution.index_workers=1")
ADAPTER = f"outputs/adapters/{TASK}/vop-0"


def index_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs the stage in this process, and returns the ids of the videos that it embeds."""
    embedded: list[str] = []
    embed = Embedder.embed

    def noting(self: Embedder, rows: Sequence[Row], folder: Path) -> SegmentCard:
        embedded.extend(row.video.video_id for row in rows)
        return embed(self, rows, folder)

    monkeypatch.setattr(Embedder, "embed", noting)
    done = run_script("index.py", root, "--task", TASK, "--adapter", ADAPTER, *SETTINGS)
    assert done.returncode == 0, done.stderr
    return embedded


@pytest.mark.slow
def test_a_kill_in_the_middle_loses_a_block_and_changes_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "killed"
    root.mkdir()
    tiny_world.write_project(root)
    trained_world.add_adapter(root, tiny_world.params(root), "vop", 0)
    shutil.rmtree(Layout(root).frames(TASK))
    tiny_world.write_store(root, tiny_world.videos(4, 0, 96))
    whole = Path(shutil.copytree(root, tmp_path / "whole"))
    everything = FrameStore(Layout(root).frames(TASK)).ids("test")

    blocks = Layout(root).index_work(TASK) / "blocks"
    command = [sys.executable, str(REPOSITORY / "pipelines" / "index.py"), "--root", str(root), "--task", TASK]
    child = subprocess.Popen([*command, "--adapter", ADAPTER, *SETTINGS], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while child.poll() is None and not list(blocks.glob("[!.]*/segment.json")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    _, said = child.communicate()
    assert child.returncode == -signal.SIGKILL, said
    done = 2 * BATCHES * len(list(blocks.glob("[!.]*/segment.json")))
    assert 0 < done < len(everything)
    assert not Layout(root).index(TASK).exists()

    assert index_again(root, monkeypatch) == everything[done:]
    assert index_again(whole, monkeypatch) == everything
    assert tree_bytes(Layout(root).index(TASK)) == tree_bytes(Layout(whole).index(TASK))
    assert os.listdir(Layout(root).index_work(TASK)) == os.listdir(Layout(whole).index_work(TASK))
