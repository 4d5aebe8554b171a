"""Scorecards of a tiny project: counts, parts, failed videos, and the same bytes twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_world
import torch

from components.backbones.load import load_backbone
from components.errors import EvaluationError
from components.evaluation.card import Identity, Rescored, read_ranks, read_scorecard
from components.evaluation.card_text import describe, warnings_of
from components.evaluation.encode import encode_split, encode_texts, encode_videos
from components.evaluation.metrics import summary
from components.evaluation.scorecard import Scorecard, make_scorecard, write_scorecard
from components.evaluation.validation import Validation
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method
from components.methods.build import build

FAILED = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    tiny_world.write_project(folder, train=9, val=6, test=8, failed_test=FAILED)
    return folder


@pytest.fixture(scope="module")
def store(root: Path) -> FrameStore:
    return FrameStore(root / "outputs" / "frames" / tiny_world.TASK)


@pytest.fixture(scope="module")
def method(root: Path) -> Method:
    backbone = load_backbone(tiny_world.params(root).backbone, root)
    return build("zero_shot", {}, backbone, frames=tiny_world.FRAMES, words=16)


def reader_of(method: Method, store: FrameStore) -> FrameReader:
    return FrameReader(store, method.backbone.resize, method.frames, cache_mib=0)


def score(method: Method, store: FrameStore, split: str, batch: int = 3) -> Scorecard:
    encoded = encode_split(method, store, reader_of(method, store), split, batch)
    return make_scorecard(encoded, store.manifest, split, Identity(task="tiny", method="zero_shot", seed=0))


def test_the_card_counts_everything_once(method: Method, store: FrameStore) -> None:
    card = score(method, store, "test").card
    assert (card.queries, card.gallery, card.failed_videos) == (8, 8, FAILED)
    assert card.subset_queries == {"all": {"t2v": 8, "v2t": 8}, "late": {"t2v": 2, "v2t": 2}}
    assert card.protocol.caption_rule == "one caption per test video"


def test_a_card_comes_back_unchanged(method: Method, store: FrameStore, tmp_path: Path) -> None:
    scorecard = score(method, store, "test")
    block = Rescored(uses="a bank", settings={"beta": 20.0, "top": 1}, t2v={"R@1": 1.0}, v2t={"R@1": 2.0})
    for made in (scorecard, scorecard.with_rescored({"qb_norm": block})):
        write_scorecard(tmp_path, made)
        assert read_scorecard(tmp_path, "test") == made.card
        assert read_scorecard(tmp_path, "test").to_json() == (tmp_path / "test.json").read_text(encoding="utf-8")


def test_a_card_of_release_0_1_loads(method: Method, store: FrameStore, tmp_path: Path) -> None:
    """That release wrote neither intervals nor the decoding."""
    write_scorecard(tmp_path, score(method, store, "test"))
    tree = json.loads((tmp_path / "test.json").read_text(encoding="utf-8"))
    for name in ("intervals", "interval_rule", "decoding"):
        del tree[name]
    (tmp_path / "test.json").write_text(json.dumps(tree), encoding="utf-8")
    text = describe(read_scorecard(tmp_path, "test"))
    assert "[" not in text
    assert "intervals" not in text


def test_ranks_explain_the_metrics_and_failed_videos_come_last(method: Method, store: FrameStore) -> None:
    scorecard = score(method, store, "test")
    rows = scorecard.ranks.to_pylist()
    for direction in ("t2v", "v2t"):
        mine = [row for row in rows if row["direction"] == direction]
        assert [row["video_id"] for row in mine] == [f"test{number:03d}" for number in range(8)]
        for name in ("all", "late"):
            ranks = np.array([row["rank"] for row in mine if name == "all" or name in row["subsets"]])
            assert scorecard.card.metrics[name][direction] == summary(ranks)
        assert [row["rank"] for row in mine if not row["decoded"]] == [8.0] * FAILED
    assert {row["caption"] for row in rows if row["direction"] == "v2t"} == {None}
    assert rows[1]["caption"] == "a red square moves left"


def test_every_metric_has_an_interval(method: Method, store: FrameStore) -> None:
    card = score(method, store, "test").card
    for part, both in card.metrics.items():
        for direction, metrics in both.items():
            assert card.intervals[part][direction].keys() == metrics.keys()
            for name, value in metrics.items():
                low, high = card.intervals[part][direction][name]
                assert low <= value <= high
    assert card.interval_rule == "95 % percentile bootstrap over videos, 1000 resamples, seed 0"


def test_the_text_says_what_the_card_says(method: Method, store: FrameStore, tmp_path: Path) -> None:
    scorecard = score(method, store, "test")
    write_scorecard(tmp_path, scorecard)
    text, card = (tmp_path / "test.txt").read_text(encoding="utf-8"), scorecard.card
    assert text.startswith("tiny, split test: zero_shot, seed 0\n")
    for part in ("all", "late"):
        low, high = card.intervals[part]["t2v"]["MnR"]
        assert f"{card.metrics[part]['t2v']['MnR']:.1f} [{low:.1f}, {high:.1f}]" in text
    for line in (
        "8 captions (text to video), 8 videos (video to text)",
        "8 videos, 2 of which failed to decode and count as wrong",
        "one caption per test video",
        card.rank_rule,
        str(card.interval_rule),
    ):
        assert line in text
    assert "WARNING" not in text
    assert "RE-SCORED" not in text


@pytest.mark.parametrize(
    ("split", "selected_on", "epoch", "warned"),
    [("test", "test", 3, True), ("val", "test", 3, False), ("test", "val", 3, False), ("test", "test", 0, False)],
)
def test_an_epoch_chosen_on_test_gives_a_warning(
    method: Method, store: FrameStore, split: str, selected_on: str, epoch: int, warned: bool
) -> None:
    card = dataclasses.replace(score(method, store, split).card, selected_on=selected_on, epoch=epoch)
    assert bool(warnings_of(card)) == warned
    text = describe(card)
    assert ("WARNING: the epoch was chosen by these test figures" in text) == warned
    assert f"{epoch}, selected on {selected_on}" in text


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"val\.json: missing; run the evaluate stage"):
        read_scorecard(tmp_path, "val")
    (tmp_path / "val.json").write_text("[1]")
    with pytest.raises(EvaluationError, match=r"not a JSON object; found 'list'"):
        read_scorecard(tmp_path, "val")
    (tmp_path / "val-ranks.parquet").write_text("no parquet")
    with pytest.raises(EvaluationError, match="ranks cannot be read"):
        read_ranks(tmp_path, "val")


def test_training_captions_are_all_queries(method: Method, store: FrameStore) -> None:
    card = score(method, store, "train").card
    assert (card.queries, card.gallery) == (18, 9)


def test_writing_twice_gives_the_same_bytes(method: Method, store: FrameStore, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_scorecard(tmp_path / name, score(method, store, "val"))
    cards = [read_scorecard(tmp_path / name, "val") for name in ("one", "two")]
    for card in cards:
        assert card.seconds.keys() == {"videos", "texts", "ranks"}
    assert dataclasses.replace(cards[0], seconds={}) == dataclasses.replace(cards[1], seconds={})
    paths = [tmp_path / name / "val-ranks.parquet" for name in ("one", "two")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert pq.read_table(paths[0]).num_rows == 12


def test_vectors_do_not_depend_on_the_batch(method: Method, store: FrameStore) -> None:
    ids = store.ids("train")
    texts = [video.captions[0] for video in store.manifest.videos]
    for batch in (1, 4, 100):
        videos = encode_videos(method, reader_of(method, store), ids, batch)
        torch.testing.assert_close(videos, encode_videos(method, reader_of(method, store), ids, 5), atol=1e-6, rtol=0)
        torch.testing.assert_close(
            encode_texts(method, texts, batch), encode_texts(method, texts, 5), atol=1e-6, rtol=0
        )
        torch.testing.assert_close(videos.norm(dim=1), torch.ones(len(ids)))


def test_validation_is_the_scorecard_of_val(method: Method, store: FrameStore) -> None:
    metrics = Validation(batch_size=3)(method, store, reader_of(method, store))
    card = score(method, store, "val").card
    assert metrics == {f"{d}_{k}": v for d, row in card.metrics["all"].items() for k, v in row.items()}


def test_a_split_without_videos(method: Method, tmp_path: Path) -> None:
    tiny_world.write_store(tmp_path, tiny_world.videos(2, 0, 2))
    empty = FrameStore(tmp_path / "outputs" / "frames" / tiny_world.TASK)
    assert Validation(batch_size=3)(method, empty, reader_of(method, empty)) == {}
    with pytest.raises(EvaluationError, match=r"split val.*no decoded videos"):
        score(method, empty, "val")
