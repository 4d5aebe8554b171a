"""The cut-off of "nothing found": on made scores, and on the captions of a collection."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_world
import trained_world
from filmed_world import write_index
from held_index import HeldIndex, copied
from hypothesis import given
from hypothesis import strategies as st
from mlflow.pyfunc import PythonModelContext
from registered_world import model_config
from ruamel.yaml import YAML
from scripts import run_script
from trained_world import TASK

from components.errors import DataError
from components.frames.store import FrameStore
from components.layout import Layout
from components.search.calibrate import MOST_CAPTIONS, Asked, calibrate, captions, heights, rows_of_sources
from components.search.card import read_index_card
from components.search.cutoff import CutOff, Level, background_rows, levels, read_cutoff, write_cutoff
from components.search.pyfunc import RankingModel
from components.search.query import Searcher
from components.search.question import Part, Question
from components.search.texts import TextVectors


def height(score: float, background: np.ndarray) -> float:
    """The definition."""
    low, middle, high = np.quantile(background, (0.25, 0.5, 0.75))
    return float((score - middle) / ((high - low) / 1.349))


def cutoff_of(absent: np.ndarray, right: np.ndarray) -> CutOff:
    return CutOff(1, "a", 100, tuple(np.sort(absent).tolist()), tuple(np.sort(right).tolist()))


@given(st.integers(1, 300), st.floats(0.001, 0.999))
def test_at_most_the_stated_share_of_all_captions_and_a_new_one_passes(count: int, share: float) -> None:
    limit = cutoff_of(np.arange(count, dtype=float), np.array([])).height(share)
    if limit is None:
        assert 1 / (count + 1) > share - 1e-9
    else:
        # n heights and a new one: any of the n + 1 may be the new one.
        assert (count - limit) / (count + 1) <= share + 1e-9
        assert (count - limit + 1) / (count + 1) > share - 1e-6


def test_twenty_captions_are_needed_for_five_percent() -> None:
    assert cutoff_of(np.arange(18.0), np.array([])).height(0.05) is None
    assert cutoff_of(np.arange(19.0), np.array([])).height(0.05) == 18.0
    few = cutoff_of(np.arange(18.0), np.array([])).describe(0.05)
    assert few == "no cut-off: 18 validation captions are too few for 5.0% false alarms, which need 19"


def test_the_level_of_each_question_is_taken_out_where_a_flat_cutoff_fails() -> None:
    """Questions differ in level and spread more than right answers differ from wrong ones."""
    rng = np.random.default_rng(0)
    questions, videos = 1000, 200
    level, spread = rng.uniform(0.1, 0.6, (questions, 1)), rng.uniform(0.01, 0.05, (questions, 1))
    wrong = level + spread * rng.standard_normal((questions, videos))
    right = (level + 6 * spread)[:, 0]
    mean, deviation = levels(wrong.astype(np.float32))
    best, kept = (wrong.max(axis=1) - mean) / deviation, (right - mean) / deviation
    half = questions // 2
    limit = cutoff_of(best[:half], kept[:half]).height(0.05)
    assert limit is not None
    assert np.mean(best[half:] > limit) < 0.09
    assert np.mean(kept[half:] > limit) > 0.9
    flat = np.sort(wrong.max(axis=1)[:half])[int(0.95 * half)]
    assert np.mean(right[half:] > flat) < 0.35


def test_a_percentile_counts_what_scores_lower() -> None:
    level = Level.of(np.array([0.3, 0.1, 0.2, 0.2], dtype=np.float32))
    assert [level.percentile(score) for score in (0.05, 0.1, 0.2, 0.25, 0.3, 0.4)] == [0, 0, 25, 75, 75, 100]
    # Quartiles at 0.175 and 0.225.
    assert level.score_at(2.0) == pytest.approx(0.2 + 2 * 0.05 / 1.349, abs=1e-6)


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 10**6])
def test_the_background_is_spread_over_the_index(count: int) -> None:
    rows = background_rows(count)
    assert len(rows) == min(count, 1000)
    assert count == 0 or (rows[0], rows[-1]) == (0, count - 1)
    assert len(np.unique(rows)) == len(rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cut")
    tiny_world.write_project(root, train=8, val=32, test=48)
    trained_world.add_adapter(root, tiny_world.params(root), "mv_adapter", 0)
    return root


@pytest.mark.parametrize("split", ["test", "all"])
def test_heights_are_those_of_single_searches(world: Path, split: str) -> None:
    """The best answer after all videos with the caption are gone, and the right one, against the searcher's scores."""
    index = write_index(world, "mv_adapter-0", split)
    searcher = Searcher.open(world, TASK)
    store = FrameStore(Layout(world).frames(TASK))
    found = calibrate(TextVectors(searcher.method, 16), store, index, "sha")
    assert found is not None
    assert (len(found.absent), len(found.right)) == (32, 32)
    assert (len(found.tested_absent), len(found.tested_right)) == (48, 48)
    videos, ids = store.manifest.by_id(), index.table()["video_id"].to_pylist()
    absent, right = [], []
    for video in store.manifest.split("test"):
        hits = searcher.search(video.captions[0], 1000)
        scores = {hit.video_id: hit.score for hit in hits}
        background = np.array([scores[ids[row]] for row in background_rows(index.count)])
        others = [h.score for h in hits if video.captions[0] not in videos[h.video_id].captions]
        absent.append(height(max(others), background))
        right.append(height(scores[video.video_id], background))
    assert found.tested_absent == pytest.approx(sorted(absent), abs=2e-3)
    assert found.tested_right == pytest.approx(sorted(right), abs=2e-3)
    assert "of right answers kept" in found.describe(0.1)
    # Validation captions find the other validation videos wrongly, whether the index holds them or not.
    everything = Searcher(searcher.method, write_index(world, "mv_adapter-0", "all"))
    best = []
    for video in store.manifest.split("val"):
        hits = everything.search(video.captions[0], 1000)
        scores = {hit.video_id: hit.score for hit in hits}
        background = np.array([scores[ids[row]] for row in background_rows(len(ids))])
        wrong = [
            hit.score
            for hit in hits
            if video.captions[0] not in videos[hit.video_id].captions
            and (split == "all" or not hit.video_id.startswith("train"))
        ]
        best.append(height(max(wrong), background))
    assert found.absent == pytest.approx(sorted(best), abs=2e-3)


def test_the_index_stage_writes_a_cutoff_and_prints_what_was_measured(
    world: Path,
) -> None:
    done = run_script("index.py", world, "--task", TASK, "--adapter", "outputs/adapters/tiny/mv_adapter-0")
    assert done.returncode == 0, done.stderr
    folder = Layout(world).index(TASK)
    card = read_index_card(folder)
    found = read_cutoff(folder, card.adapter_sha256, card.videos)
    assert found is not None
    assert found.describe(0.05) in done.stdout
    assert (len(found.absent), len(found.tested_absent)) == (32, 48)
    assert (folder / "cutoff.json").stat().st_size < 5000
    searcher = Searcher.open(world, TASK)
    judged = searcher.search("a red square moves right", 1)[0].below_cutoff is not None
    assert judged == (found.limit(0.05) is not None)


@pytest.mark.parametrize(("kept", "leaves_out"), [(20, True), (10, True), (9, False), (0, False)])
def test_a_cutoff_that_keeps_few_right_answers_leaves_out_nothing(kept: int, leaves_out: bool) -> None:
    found = CutOff(1, "", 48, tuple(range(40)), (0.0,) * (20 - kept) + (100.0,) * kept)
    assert found.height(0.05) == 38.0
    assert found.limit(0.05) == (38.0 if leaves_out else None)
    assert ("leaves out nothing" in found.describe(0.05)) != leaves_out


def test_windows_of_a_video_are_its_answers(world: Path) -> None:
    rows, vectors = copied(write_index(world, "mv_adapter-0", "test"))
    windows = [{**row, "window_of": f"film{number // 2}"} for number, row in enumerate(rows)]
    index = HeldIndex(windows, vectors)
    places = rows_of_sources(index.as_index)
    assert places["film3"] == [6, 7]
    asked = Asked(["x"], ["film3"], [frozenset(["film3", "film0"])])
    text = vectors[:1]
    background = vectors[background_rows(len(vectors))]
    absent, right = heights(index.blocks, background, text, asked, places)
    scores = vectors @ text[0]
    mean, deviation = levels(text @ background.T)
    assert right == pytest.approx((scores[6:8].max() - mean) / deviation, abs=1e-4)
    left = np.delete(scores, [0, 1, 6, 7])
    assert absent == pytest.approx((left.max() - mean) / deviation, abs=1e-4)


def test_a_searcher_marks_what_is_below_and_says_nothing_found(world: Path) -> None:
    write_index(world, "mv_adapter-0", "test")
    folder = Layout(world).index(TASK)
    sha256 = read_index_card(folder).adapter_sha256
    text = "a red square moves right"
    plain = Searcher.open(world, TASK).search(text, 5)
    assert [hit.below_cutoff for hit in plain] == [None] * 5
    assert plain[0].percentile is not None
    assert 90 <= plain[0].percentile < 100
    scores = [hit.score for hit in Searcher.open(world, TASK).search(text, 48)]
    between = height((scores[1] + scores[2]) / 2, np.array(scores))
    for limit, below in ((between, [False, False, True, True, True]), (99.0, [True] * 5)):
        write_cutoff(folder, CutOff(1, sha256, 48, (limit,) * 40, ()))
        searcher = Searcher.open(world, TASK)
        answer = searcher.answer([text], 5)[0]
        assert [hit.below_cutoff for hit in answer.hits] == below
        assert [hit.video_id for hit in answer.hits] == [hit.video_id for hit in plain]
        assert bool(answer.notes) == all(below)
    assert answer.notes[0].startswith(f"nothing found: best score {scores[0]:.3f} is below ")
    # The cut-off was made from captions. It says nothing about other questions.
    like = searcher.search(Question((Part("like", "test003"),)), 3)
    assert [hit.below_cutoff for hit in like] == [None] * 3
    both = searcher.search(Question((Part("text", text), Part("text", "a blue square", -0.3))), 3)
    assert [hit.below_cutoff for hit in both] == [None] * 3


def test_a_registered_model_leaves_out_what_is_below_by_the_settings_of_the_project(
    world: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(world, tmp_path / "project"))
    write_index(root, "mv_adapter-0", "test")
    sha256 = read_index_card(Layout(root).index(TASK)).adapter_sha256
    text = "a red square moves right"
    scores = [hit.score for hit in Searcher.open(root, TASK).search(text, 48)]
    between = height((scores[1] + scores[2]) / 2, np.array(scores))
    # One caption in twenty has a wrong answer that comes high. So 4 % of false alarms leave nothing, and 10 % two hits.
    write_cutoff(Layout(root).index(TASK), CutOff(1, sha256, 48, (between,) * 38 + (99.0, 99.0), ()))
    asked = pd.DataFrame({"text": [text]})
    for share, marks in ((0.04, [True] * 5), (0.1, [False, False, True, True, True])):
        params = YAML(typ="safe").load((root / "params.yaml").read_text(encoding="utf-8"))
        params["search"]["false_alarms"] = share
        YAML().dump(params, root / "params.yaml")
        model, config = RankingModel(), dataclasses.asdict(model_config(tiny_world.params(root), root))
        model.load_context(PythonModelContext({"adapter": str(Layout(root).adapter(TASK, "mv_adapter", 0))}, config))
        table = model.predict(None, asked, {"top": 5, "all": True})
        assert table["below_cutoff"].tolist() == marks
        # MLflow gives a version the defaults of its signature. One from before `all` hides nothing.
        assert model.predict(None, asked, {"top": 5}).equals(table)
        shown = model.predict(None, asked, {"top": 5, "all": False})
        assert shown["video_id"].tolist() == table["video_id"].tolist()[: marks.count(False)]
        assert shown["below_cutoff"].tolist() == [False] * marks.count(False)


def test_a_cutoff_of_another_index_is_not_used_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    made = CutOff(1, "a", 100, (1.0, 2.0), (3.0,))
    write_cutoff(tmp_path, made)
    assert read_cutoff(tmp_path, "a", 100) == made
    assert read_cutoff(tmp_path, "a", 101) is None
    assert read_cutoff(tmp_path, "b", 100) is None
    (tmp_path / "cutoff.json").write_text('{"format": 1}')
    with pytest.raises(DataError, match=r"(?s)cutoff\.json: .*adapter_sha256: missing"):
        read_cutoff(tmp_path, "a", 100)
    write_cutoff(tmp_path, None)
    assert read_cutoff(tmp_path, "a", 100) is None


def test_without_validation_captions_or_with_few_videos_there_is_no_cutoff(world: Path, tmp_path: Path) -> None:
    rows, vectors = copied(write_index(world, "mv_adapter-0", "test"))
    store = FrameStore(Layout(world).frames(TASK))
    texts = TextVectors(Searcher.open(world, TASK).method, 16)
    assert calibrate(texts, store, HeldIndex(rows[:19], vectors[:19]).as_index, "sha") is None
    assert calibrate(texts, store, HeldIndex(rows[:20], vectors[:20]).as_index, "sha") is not None
    bare = [dataclasses.replace(video, captions=()) for video in store.manifest.videos]
    assert captions(dataclasses.replace(store.manifest, videos=tuple(bare)), "val", {"val000"}).texts == []


def test_at_most_so_many_captions_are_asked_spread_over_the_split(world: Path) -> None:
    manifest = FrameStore(Layout(world).frames(TASK)).manifest
    many = [dataclasses.replace(v, captions=tuple(f"{v.video_id} {n}" for n in range(100))) for v in manifest.videos]
    asked = captions(dataclasses.replace(manifest, videos=tuple(many)), "val", {v.video_id for v in many})
    assert len(asked.texts) == MOST_CAPTIONS
    assert len(set(asked.texts)) == MOST_CAPTIONS
    assert set(asked.sources) == {f"val{number:03d}" for number in range(32)}
    assert asked.same[0] == {"val000"}
