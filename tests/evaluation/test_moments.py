"""Metrics of moments against exact numbers, spans from scores of frames, and the moments of real stories."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiny_world
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.adapters.card import TrainingFacts
from components.adapters.card import read_card as load_card
from components.adapters.file import save_adapter
from components.backbones.load import load_backbone
from components.benchmarks import activitynet
from components.embedded.annotations import write_activitynet
from components.embedded.collections import VideoPlan, plan_stories, render
from components.evaluation import moments
from components.evaluation.card import read_scorecard
from components.evaluation.card_text import describe
from components.evaluation.encode import encode_frames
from components.evaluation.evaluate import evaluate
from components.evaluation.localisation import BELOW, answer, edges_of, measure_moments
from components.evaluation.scorecard import write_scorecard
from components.evaluation.settings import EvaluationSettings
from components.frames import schema
from components.frames.card import read_card
from components.frames.jpeg import encode_frames as to_jpeg
from components.frames.store import FrameStore
from components.frames.writing import write_shard, write_table
from components.ingest.sampling import segment_center
from components.methods.base import Method
from components.methods.build import build
from components.methods.reader import reader_for
from components.moments import apart, overlaps
from components.params import load_params
from components.provenance import sha256_file

ROOT = Path(__file__).resolve().parents[2]
PARAMS = load_params(ROOT / "params.yaml", [])
FRAMES, SECONDS, FPS = 12, 6.0, 10
PART = 60.0  # where a part of a file begins, in seconds

quick = settings(max_examples=40, deadline=None)

Pair = tuple[int, int]
spans = st.tuples(st.integers(0, 40), st.integers(1, 40)).map(lambda pair: (pair[0], pair[0] + pair[1]))
answers = st.lists(spans, max_size=13)
truths = st.lists(spans, min_size=1, max_size=5)
level = st.integers(10, 19)  # IoU in twentieths


def array(pairs: Sequence[Pair]) -> np.ndarray:
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def exact_iou(one: Pair, other: Pair) -> Fraction:
    seconds = [len(range(*pair)) for pair in (one, other)]
    both = len(set(range(*one)) & set(range(*other)))
    return Fraction(both, sum(seconds) - both)


def exact_precision(found: Sequence[Pair], true: Sequence[Pair], least: Fraction) -> Fraction:
    """For each true span that is found, the best precision of any longer list, over the number of true spans."""
    free, hits = list(range(len(true))), []
    for span in found[:10]:
        fitting = [n for n in free if exact_iou(span, true[n]) >= least]
        if fitting:
            free.remove(max(fitting, key=lambda n: (exact_iou(span, true[n]), -n)))
        hits.append(bool(fitting))
    points = [Fraction(sum(hits[:end]), end) for end in range(1, len(hits) + 1)]
    return sum((max(points[row:]) for row, hit in enumerate(hits) if hit), Fraction(0)) / len(true)


@quick
@given(answers, truths, level)
def test_metrics_are_those_of_exact_numbers(found: list[Pair], true: list[Pair], step: int) -> None:
    least = Fraction(step, 20)
    made = moments.average_precision(array(found), array(true), [float(least)])
    assert made[0] == pytest.approx(float(exact_precision(found, true, least)))
    hit = bool(found) and any(exact_iou(found[0], span) >= least for span in true)
    assert moments.first_hits(array(found), array(true), [float(least)]).tolist() == [float(hit)]


@quick
@given(answers, truths, st.integers(-5, 5), st.sampled_from([0.5, 1.0, 4.0]))
def test_neither_origin_nor_unit_of_time_matters(
    found: list[Pair], true: list[Pair], shift: int, factor: float
) -> None:
    plain = moments.average_precision(array(found), array(true))
    moved = moments.average_precision(array(found) * factor + shift, array(true) * factor + shift)
    assert moved.tolist() == plain.tolist()


@quick
@given(st.sets(st.integers(0, 9), min_size=1, max_size=5), answers)
def test_the_truth_is_a_perfect_answer_whatever_comes_after_it(starts: set[int], more: list[Pair]) -> None:
    true = array([(10 * start, 10 * start + 8) for start in starts])
    found = np.concatenate([true, array(more)])
    assert moments.average_precision(found, true).tolist() == [1.0] * len(moments.THRESHOLDS)


def test_a_query_worked_out_by_hand() -> None:
    """Right, wrong, right of three true spans: precisions 1, 1/2, 2/3. A second span on the same one is wrong."""
    true = array([(0, 10), (20, 30), (50, 60)])
    found = array([(0, 10), (0, 9), (21, 30)])
    assert moments.average_precision(found, true, [0.5])[0] == pytest.approx((1 + 2 / 3) / 3)
    assert moments.average_precision(found, true, [0.95])[0] == pytest.approx(1 / 3)
    values = moments.of_queries([found, array([])], [true, true])
    assert list(values) == ["R1@0.5", "R1@0.7", "mAP@0.5", "mAP@0.75", "mAP"]
    assert values["R1@0.7"].tolist() == [100.0, 0.0]
    assert values["mAP"][1] == 0.0


def test_only_the_first_ten_spans_count() -> None:
    wrong = [(100 + n, 101 + n) for n in range(10)]
    assert moments.average_precision(array([*wrong, (0, 10)]), array([(0, 10)]), [0.5])[0] == 0.0
    assert moments.average_precision(array([*wrong[1:], (0, 10)]), array([(0, 10)]), [0.5])[0] == pytest.approx(0.1)


def test_ranges_of_length_keep_their_true_spans_alone() -> None:
    true = [array([(0, 10), (20, 50)]), array([(0, 11)])]
    found = [array([(20, 50), (0, 10)]), array([(0, 11)])]
    assert moments.by_length(found, true) == {
        "mAP short": pytest.approx(50.0),
        "mAP middle": pytest.approx(100.0),
    }


def test_a_span_is_the_run_of_frames_that_stands_out() -> None:
    edges = edges_of([5.5, 6.5, 7.5, 8.5, 9.5], 5.0, 10.0)
    assert edges.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert answer(np.array([0.1, 0.3, 0.3, 0.1, 0.1]), edges)[0].tolist() == [1.0, 3.0]
    assert answer(np.array([0.1, 0.1, 0.1, 0.1, 0.2]), edges)[0].tolist() == [4.0, 5.0]


def test_equal_frames_give_the_whole_video() -> None:
    """Differences by rounding are no evidence."""
    noise = np.array([0.0, 1.0, -1.0, 2.0, 0.0]) * 1e-9
    assert answer(0.25 + noise, edges_of([0.5, 1.5, 2.5, 3.5, 4.5], 0.0, 5.0))[0].tolist() == [0.0, 5.0]
    assert answer(np.array([0.3]), edges_of([0.0], 0.0, 4.0)).tolist() == [[0.0, 4.0]]


@quick
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_the_best_run_is_that_of_a_slow_search(scores: list[int]) -> None:
    total = len(scores)
    runs = []
    for first in range(total):
        for end in range(first + 1, total + 1):
            inside, outside = scores[first:end], scores[:first] + scores[end:]
            gap = np.mean(inside) - np.mean(outside) if outside else 0.0
            runs.append((-round(gap * (len(inside) * len(outside) / total) ** 0.5, 6), first - end, first, end))
    best = min(runs)
    found = answer(np.array(scores), np.arange(total + 1.0))
    assert found[0].tolist() == [best[2], best[3]]
    others = overlaps(found, found) - np.eye(len(found))
    assert others.max() < 0.5


def test_spans_that_overlap_a_better_one_are_left_out() -> None:
    spans = array([(0, 10), (1, 10), (0, 5), (5, 15), (5, 16)])
    assert apart(spans, BELOW) == [0, 3]  # half of a span is too much
    assert apart(spans, 0.5) == [0, 2, 3]
    assert apart(array([(n, n + 1) for n in range(20)]), BELOW, 10) == list(range(10))
    assert apart(array([]).reshape(0, 2), BELOW) == []


def write_stories(root: Path) -> None:
    """A store of a few videos of shapes-stories with its annotations and frames, which are not written as videos.

    The first test video has failed. Each validation video is a part of a longer file.
    """
    sizes = {f"{split}_{kind}": 1 for split in ("train", "val", "test") for kind in ("random", "groups")}
    plans = plan_stories(dataclasses.replace(PARAMS.demo.stories, **sizes), PARAMS.demo.seed)
    tiny_world.write_store(root, tiny_world.videos(1, 1, 1), task="stories")
    write_activitynet(plans, root)
    manifest = activitynet.read("stories", str(root), {})
    videos = [
        dataclasses.replace(video, start_seconds=PART, end_seconds=PART + SECONDS) if video.split == "val" else video
        for video in manifest.videos
    ]
    manifest = dataclasses.replace(manifest, videos=tuple(videos))
    manifest.check()
    folder = root / "outputs" / "frames" / "stories"
    rows = {plan.video_id.removeprefix("v_"): story_row(plan) for plan in plans}
    ordered = [rows[video.video_id] for video in manifest.videos]
    lost = next(video.video_id for video in manifest.split("test"))
    ledger = FrameStore(folder).ledger().to_pylist()[0]
    kept = [row for row in ordered if row["video_id"] != lost]
    places = {row["video_id"]: number for number, row in enumerate(kept)}
    write_shard(folder / schema.shard_name(0), kept, 8)
    write_table(folder / schema.MANIFEST, manifest.to_table())
    entries = [
        {
            **ledger,
            "video_id": video.video_id,
            "split": video.split,
            "status": schema.DECODED if video.video_id in places else schema.FAILED,
            "frames": FRAMES if video.video_id in places else 0,
            "row": places.get(video.video_id),
            "shard": 0,
        }
        for video in manifest.videos
    ]
    write_table(folder / schema.LEDGER, pa.Table.from_pylist(entries, schema=schema.LEDGER_SCHEMA))
    card, shard = read_card(folder), folder / schema.shard_name(0)
    stored = dataclasses.replace(
        card.shards[0], bytes=shard.stat().st_size, sha256=sha256_file(shard), videos=len(kept)
    )
    store = dataclasses.replace(card, shards=(stored,), settings=dataclasses.replace(card.settings, frames=FRAMES))
    (folder / schema.CARD).write_text(store.to_json(), encoding="utf-8")


def story_row(plan: VideoPlan) -> dict[str, object]:
    shown = list(render(plan, 96, FPS))
    chosen, start = segment_center(len(shown), FRAMES), PART if plan.split == "val" else 0.0
    small = np.stack([np.asarray(Image.fromarray(shown[index]).resize((32, 32))) for index in chosen])
    return {
        **tiny_world._row(tiny_world.videos(1, 0, 0)[0], 1),
        "video_id": plan.video_id.removeprefix("v_"),
        "frames": to_jpeg(small, 95),
        "timestamps_seconds": [start + index / FPS for index in chosen],
        "frame_indices": chosen,
        "source_frames": len(shown),
        "fps": float(FPS),
        "duration_seconds": 2 * start + SECONDS,
    }


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    root = tmp_path_factory.mktemp("stories")
    write_stories(root)
    return FrameStore(root / "outputs" / "frames" / "stories")


@pytest.fixture(scope="module")
def plain() -> Method:
    return method("zero_shot", {})


def method(name: str, raw: dict[str, object]) -> Method:
    return build(name, raw, load_backbone(PARAMS.backbone, ROOT), frames=FRAMES, words=48).eval()


def few() -> EvaluationSettings:
    return dataclasses.replace(PARAMS.evaluation, bootstrap=100)


def test_plain_clip_finds_the_events_of_real_stories(stories: FrameStore, plain: Method, tmp_path: Path) -> None:
    """The events take a third of the video each, so the whole video is never right at an IoU of 0.5."""
    reader = reader_for(plain, stories)
    found = measure_moments(plain, stories, reader, "test", few())
    assert found is not None
    assert (found.queries, found.videos, found.failed_videos) == (27, 9, 1)
    # One video in nine has failed, and its three queries count as wrong.
    assert 50.0 < found.metrics["R1@0.5"] <= 100 * 24 / 27
    assert set(found.whole_video.values()) == {0.0}
    low, high = found.intervals["mAP"]
    assert low <= found.metrics["mAP"] <= high

    facts = TrainingFacts(parameters_total=1, backbone=PARAMS.backbone)
    save_adapter(tmp_path / "adapter", plain, task="stories", provenance={"commit": None}, extra=facts)
    card = evaluate(plain, stories, "test", load_card(tmp_path / "adapter"), 0, few())
    assert card.card.moments == found
    write_scorecard(tmp_path, card.with_moments(None))
    assert "moments" not in json.loads((tmp_path / "test.json").read_text())
    write_scorecard(tmp_path, card)
    read = read_scorecard(tmp_path, "test")
    assert read == card.card
    line = f"R1@0.5: {found.metrics['R1@0.5']:.1f} ["
    assert line in describe(read)
    assert "27 queries of 9 videos, 1 of which failed to decode" in describe(read)


def test_a_split_without_spans_has_no_moments(plain: Method, tmp_path: Path) -> None:
    tiny_world.write_store(tmp_path, tiny_world.videos(1, 1, 2))
    store = FrameStore(tmp_path / "outputs" / "frames" / tiny_world.TASK)
    assert measure_moments(plain, store, reader_for(plain, store), "test", few()) is None


@pytest.mark.parametrize("name", ["zero_shot", "mv_adapter", "dgl", ("seq_transf", "lora")])
def test_frames_that_show_something_else_have_other_vectors(stories: FrameStore, name: str | tuple[str, ...]) -> None:
    """Also where the tower gives every frame of a video the same features (DGL), and where a part pools (composed)."""
    if isinstance(name, str):
        made = method(name, PARAMS.method(name) if name != "zero_shot" else {})
    else:
        made = method("both", {"method": list(name), **{part: PARAMS.method(part) for part in name}})
    ids = stories.ids("test")[:2]
    vectors = encode_frames(made, reader_for(made, stories), ids, 2)
    assert vectors.shape == (2, FRAMES, made.spec.embed_dim)
    assert vectors.norm(dim=-1).numpy() == pytest.approx(1.0, abs=1e-5)
    assert (vectors[:, 0] - vectors[:, -1]).abs().amax() > 1e-3


def test_spans_count_from_the_start_of_a_part_of_a_file(stories: FrameStore, plain: Method) -> None:
    found = measure_moments(plain, stories, reader_for(plain, stories), "val", few())
    assert found is not None
    assert found.failed_videos == 0
    assert found.metrics["R1@0.5"] > 50.0
