"""The command line of search.py, in this process, on real films."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import av
import filmed_world
import numpy as np
import pytest
import tiny_world
from scripts import run_script
from trained_world import TASK

from components.layout import Layout
from components.search.card import read_index_card
from components.search.cutoff import CutOff, write_cutoff

TEXT = "a red square moves right"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("asked")
    filmed_world.write_filmed(root)
    return root


class Shell:
    """Runs the script with arguments and returns what it prints."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, *arguments: str, root: Path | None = None) -> str:
        done = run_script("search.py", root or self.root, "--task", TASK, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *arguments: str) -> str:
        """The error, which is one line."""
        done = run_script("search.py", self.root, "--task", TASK, *arguments)
        assert done.returncode == 1
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]


@pytest.fixture
def shell(world: Path) -> Shell:
    return Shell(world)


def test_a_table_json_and_csv_say_the_same(shell: Shell) -> None:
    table = shell("--top", "3", *TEXT.split())
    head, *rows = table.splitlines()
    assert head.split() == ["rank", "score", "percentile", "span", "video", "file"]
    answers = json.loads(shell("--top", "3", "--format", "json", TEXT))
    assert [answer["query"] for answer in answers] == [TEXT]
    hits = answers[0]["hits"]
    assert [row.split()[4] for row in rows] == [hit["video_id"] for hit in hits]
    assert list(hits[0]) == [
        *("rank", "video_id", "score", "start_seconds", "end_seconds", "uri"),
        *("window_of", "percentile", "below_cutoff", "folded", "clip"),
    ]
    lines = list(csv.DictReader(shell("--top", "3", "--format", "csv", TEXT).splitlines()))
    assert [(row["query"], row["video_id"], float(row["score"])) for row in lines] == [
        (TEXT, hit["video_id"], hit["score"]) for hit in hits
    ]


def test_every_kind_of_question_is_asked(shell: Shell, world: Path, tmp_path: Path) -> None:
    def found(*arguments: str) -> list[str]:
        tree = json.loads(shell("--format", "json", "--top", "100", *arguments))
        return [hit["video_id"] for hit in tree[0]["hits"]]

    film = str(world / "data/tiny/videos/test001.mp4")
    picture = tmp_path / "picture.jpg"
    with av.open(film) as container:
        next(container.decode(video=0)).to_image().save(picture)
    assert len(found(TEXT)) == 8
    assert found("--video", film)[0] == "test001"
    assert found("--like", "test001") == [name for name in found("--video", film) if name != "test001"]
    assert len(found("--picture", str(picture))) == 8
    assert found("--plus", TEXT) == found(TEXT)
    assert found(TEXT, "--minus", "0.0001*snow") == found(TEXT)
    assert found("--plus", "0.0001*snow", "--minus", TEXT) == found(TEXT)[::-1]
    assert found(TEXT, "--where", "id.startswith('val')") == [name for name in found(TEXT) if name.startswith("val")]
    (tmp_path / "queries.txt").write_text(f"{TEXT}\na blue square\n", encoding="utf-8")
    tree = json.loads(shell("--format", "json", "--queries", str(tmp_path / "queries.txt")))
    assert [answer["query"] for answer in tree] == [TEXT, "a blue square"]
    table = shell("--top", "1", "--queries", str(tmp_path / "queries.txt"))
    assert [line for line in table.splitlines() if "square" in line] == [TEXT, "a blue square"]


def test_what_is_below_the_cutoff_is_left_out_unless_all_is_asked(shell: Shell, world: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(world, root)
    folder = Layout(root).index(TASK)
    card = read_index_card(folder)
    hits = json.loads(shell("--format", "json", "--top", "100", TEXT))[0]["hits"]
    low, middle, high = np.quantile([hit["score"] for hit in hits], (0.25, 0.5, 0.75))
    height = float(((hits[2]["score"] + hits[3]["score"]) / 2 - middle) / ((high - low) / 1.349))
    write_cutoff(folder, CutOff(1, card.adapter_sha256, 8, (height,) * 30, ()))
    text = shell(TEXT, root=root)
    assert "note: 5 of 8 answers are below the cut-off; --all shows them" in text
    assert [name for name in (hit["video_id"] for hit in hits) if name in text] == [h["video_id"] for h in hits[:3]]
    assert shell("--all", TEXT, root=root).count("below") == 5
    write_cutoff(folder, CutOff(1, card.adapter_sha256, 8, (50.0,) * 30, ()))
    first, second, *rest = shell(TEXT, root=root).splitlines()
    assert first.startswith(f"nothing found: best score {hits[0]['score']:.3f} is below ")
    assert (second, rest) == ("note: 8 of 8 answers are below the cut-off; --all shows them", [])


def test_clips_are_saved_and_named(shell: Shell, world: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(world, root)
    hits = json.loads(shell("--format", "json", "--top", "3", TEXT))[0]["hits"]
    (root / hits[1]["uri"]).write_bytes(b"no film any more" * 100)
    tree = json.loads(shell("--top", "3", "--format", "json", "--save-clips", str(tmp_path / "clips"), TEXT, root=root))
    clips = [hit["clip"] for hit in tree[0]["hits"]]
    assert clips[1] is None
    assert [hit["video_id"] in clip for hit, clip in zip(hits, clips, strict=True) if clip] == [True, True]
    for clip in (clips[0], clips[2]):
        with av.open(clip) as container:
            assert len(list(container.decode(video=0))) == filmed_world.FRAMES
    first, second, third = tree[0]["notes"]
    assert first == f"clip 1: {clips[0]} starts at 0.000 s of the film, and ends at 2.000 s"
    assert second.startswith(f"clip 2: {root / hits[1]['uri']}: no clip: not a video, or damaged")
    assert third.startswith("clip 3: ")
    assert len(list((tmp_path / "clips").iterdir())) == 2


def test_faults_are_one_line(shell: Shell, tmp_path: Path) -> None:
    assert "nothing is asked" in shell.fails()
    assert "all weights are negative" in shell.fails("--minus", "snow")
    assert "no such column; found 'year'; expected one of end, id, length, path, " in shell.fails(
        "--where", "year > 2000", TEXT
    )
    assert "the picture cannot be read" in shell.fails("--picture", str(tmp_path / "gone.jpg"))
    assert "expected this or --queries" in shell.fails("--queries", "x.txt", TEXT)
    assert "no such video; found 'nobody'" in shell.fails("--like", "nobody")
    assert "too few results" in shell.fails("--top", "0", TEXT)


def test_a_condition_that_leaves_nothing_says_so(shell: Shell) -> None:
    assert shell("--where", "length > 1000", TEXT) == "nothing found: no video meets the condition length > 1000\n"


def test_a_long_text_says_what_was_kept(shell: Shell) -> None:
    words = tiny_world.params(shell.root).task(TASK).words
    note = f"note: only the first {words - 2} of 5000 words fit, and the rest is ignored"
    assert shell("--top", "1", "red " * 5000).splitlines()[0] == note
