"""Metrics by language, of originals alone, and of the choice between two directions, with vectors made by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from components.errors import EvaluationError
from components.evaluation import bootstrap
from components.evaluation.card import Identity, read_scorecard
from components.evaluation.card_text import describe
from components.evaluation.encode import EncodedSplit, without_rounding
from components.evaluation.scorecard import make_scorecard, write_scorecard
from components.manifest import Manifest, Protocol
from components.tracking.evaluated import metrics_of
from components.video import Video

IDENTITY = Identity(task="made", method="some", seed=0)


def encoded(
    videos: Sequence[Video], vectors: list[list[float]], texts: list[list[float]], lost: int = -1
) -> EncodedSplit:
    owner = [row for row, video in enumerate(videos) for _ in video.captions]
    return EncodedSplit(
        tuple(videos),
        torch.ones(len(videos), dtype=torch.bool),
        torch.tensor(vectors),
        tuple(caption for video in videos for caption in video.captions),
        torch.tensor(owner),
        torch.tensor(texts),
        {},
    )


def manifest(videos: Sequence[Video]) -> Manifest:
    return Manifest("made", Protocol("made", "1", "all", "listed"), tuple(videos))


def unit(k: int) -> list[float]:
    return [float(k == i) for i in range(3)]


class TestLanguages:
    """English texts are right. German ones name the next video. The third video has no German text."""

    VIDEOS = (
        Video("a", "a.mp4", "test", ("a en", "a de"), languages=("en", "de")),
        Video("b", "b.mp4", "test", ("b de", "b en"), languages=("de", "en")),
        Video("c", "c.mp4", "test", ("c en",), languages=("en",)),
    )
    SPLIT = encoded(VIDEOS, [unit(0), unit(1), unit(2)], [unit(0), unit(1), unit(2), unit(1), unit(2)])

    def test_each_language_is_ranked_alone(self) -> None:
        card = make_scorecard(self.SPLIT, manifest(self.VIDEOS), "test", IDENTITY).card
        assert list(card.metrics) == ["all", "language-de", "language-en"]
        english, german = card.metrics["language-en"], card.metrics["language-de"]
        assert (english["t2v"]["R@1"], english["v2t"]["R@1"]) == (100.0, 100.0)
        # "a de" ties b, so a comes second or third: 2.5. "b de" likewise.
        assert (german["t2v"]["R@1"], german["t2v"]["MnR"]) == (0.0, 2.5)
        assert card.subset_queries["language-de"] == {"t2v": 2, "v2t": 2}
        assert card.subset_queries["language-en"] == {"t2v": 3, "v2t": 3}
        # A video's best caption counts in the whole, of whatever language.
        assert card.metrics["all"]["t2v"]["R@1"] == 60.0
        assert card.gallery == 3

    def test_the_rows_are_the_same_as_if_a_language_were_the_only_one(self) -> None:
        only = [dataclasses.replace(v, captions=(f"{v.video_id} en",), languages=()) for v in self.VIDEOS]
        alone = encoded(only, [unit(0), unit(1), unit(2)], [unit(0), unit(1), unit(2)])
        card = make_scorecard(alone, manifest(only), "test", IDENTITY).card
        both = make_scorecard(self.SPLIT, manifest(self.VIDEOS), "test", IDENTITY).card
        assert card.metrics["all"] == both.metrics["language-en"]
        assert card.intervals["all"] == both.intervals["language-en"]
        assert card.part_rules == {}

    def test_a_card_says_how_a_language_is_ranked_and_comes_back(self, tmp_path: Path) -> None:
        made = make_scorecard(self.SPLIT, manifest(self.VIDEOS), "test", IDENTITY)
        write_scorecard(tmp_path, made)
        card = read_scorecard(tmp_path, "test")
        assert card == made.card
        assert "language-de: captions in the language 'de' alone, against the whole gallery" in describe(card)
        assert metrics_of(card)["language-en/t2v_R@1"] == 100.0

    def test_a_subset_with_the_name_of_a_language_is_named(self) -> None:
        videos = [dataclasses.replace(video, subsets=("language-en",)) for video in self.VIDEOS]
        split = dataclasses.replace(self.SPLIT, videos=tuple(videos))
        with pytest.raises(EvaluationError, match=r"found 'language-en'; .*rename it in subsets\.json"):
            make_scorecard(split, manifest(videos), "test", IDENTITY)


def pairs(count: int) -> tuple[Video, ...]:
    rows = []
    for number in range(count):
        name, uri = f"v{number}", f"v{number}.mp4"
        rows.append(Video(name, uri, "test", (f"{name} opens",)))
        rows.append(Video(f"{name}_reverse", uri, "test", (f"{name} closes",), reverse_of=name))
    return tuple(rows)


class TestReversals:
    """Three videos and their reversals: the first pair is told apart, the second is mixed up, the third ties."""

    VIDEOS = pairs(3)
    SPLIT = encoded(
        VIDEOS,
        [[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0], [-1.0, 0.0], [-1.0, 0.0]],
        [[1.0, 0.2], [1.0, -0.2], [-0.2, 1.0], [0.2, 1.0], [-1.0, 0.3], [-1.0, -0.3]],
    )

    def test_binary_is_the_share_of_right_choices_with_ties_as_halves(self) -> None:
        card = make_scorecard(self.SPLIT, manifest(self.VIDEOS), "test", IDENTITY).card
        text, video = card.binary["t2v"], card.binary["v2t"]
        assert (text.queries, text.accuracy, text.tied) == (6, 50.0, 2)
        # Of the third pair both videos like both captions equally.
        assert (video.queries, video.accuracy, video.tied) == (6, 50.0, 2)
        assert text.interval == (0.0, 100.0)

    def test_a_pair_is_drawn_as_one(self) -> None:
        values, groups = np.array([100.0, 0.0, 100.0, 0.0]), np.array([0, 0, 1, 1])
        assert bootstrap.mean_interval(values, groups, 200) == (50.0, 50.0)
        low, high = bootstrap.mean_interval(values, np.arange(4), 200)
        assert low < 50.0 < high

    def test_origin_has_originals_alone(self) -> None:
        card = make_scorecard(self.SPLIT, manifest(self.VIDEOS), "test", IDENTITY).card
        assert card.subset_queries["origin"] == {"t2v": 3, "v2t": 3}
        assert (card.metrics["origin"]["t2v"]["R@1"], card.metrics["origin"]["v2t"]["R@1"]) == (100.0, 100.0)
        assert card.metrics["all"]["t2v"]["R@1"] == pytest.approx(100 / 3)
        assert (card.queries, card.gallery) == (6, 6)

    def test_a_video_that_failed_is_wrong_in_both_directions(self) -> None:
        split = dataclasses.replace(self.SPLIT, present=torch.tensor([False, False, True, True, True, True]))
        card = make_scorecard(split, manifest(self.VIDEOS), "test", IDENTITY).card
        assert card.binary["t2v"].accuracy == pytest.approx(100 / 6)
        assert card.binary["v2t"].accuracy == pytest.approx(100 / 6)

    def test_a_card_with_reversals_comes_back_and_says_its_rule(self, tmp_path: Path) -> None:
        made = make_scorecard(self.SPLIT, manifest(self.VIDEOS), "test", IDENTITY)
        write_scorecard(tmp_path, made)
        assert read_scorecard(tmp_path, "test") == made.card
        text = describe(made.card)
        assert "forward or backward: each caption chooses between its video and that one's reversal" in text
        assert "text to video: accuracy 50.0 [0.0, 100.0], 6 queries, 2 of which tied" in text
        assert metrics_of(made.card)["binary/t2v_accuracy"] == 50.0

    def test_a_card_without_reversals_does_not_mention_them(self, tmp_path: Path) -> None:
        videos = [video for video in self.VIDEOS if video.reverse_of is None]
        units = [unit(k) for k in range(3)]
        write_scorecard(tmp_path, make_scorecard(encoded(videos, units, units), manifest(videos), "test", IDENTITY))
        assert not {"binary", "binary_rule", "part_rules"} & set(json.loads((tmp_path / "test.json").read_text()))

    def test_rounding_is_no_difference_and_more_is(self) -> None:
        vectors = torch.tensor([[0.6, 0.8], [0.6 + 1e-6, 0.8], [0.6, 0.8], [0.6, 0.8 + 1e-4]])
        done = without_rounding(self.VIDEOS[:4], vectors)
        assert torch.equal(done[1], vectors[0])
        assert torch.equal(done[2:], vectors[2:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reverse_of": "gone"}, "video runs backwards, but the one that it names"),
        ({"split": "val"}, "video runs backwards, but the one that it names"),
        ({"uri": "other.mp4"}, "video runs backwards, but the one that it names"),
        ({"end_seconds": 2.0}, "video runs backwards, but the one that it names"),
        ({"reverse_of": "v1_reverse"}, "video runs backwards, but the one that it names"),
        ({"languages": ("en", "de")}, "captions and their languages differ in number"),
    ],
)
def test_a_manifest_with_an_impossible_reversal_is_refused(change: dict[str, object], message: str) -> None:
    rows = list(pairs(2))
    rows[1] = dataclasses.replace(rows[1], **change)  # type: ignore[arg-type]
    with pytest.raises(Exception, match=f"{message}.*found 'v0_reverse'"):
        manifest([*rows, Video("t", "t", "train", ("t",)), Video("w", "w", "val", ("w",))]).check()
    twice = [*pairs(1), dataclasses.replace(pairs(1)[1], video_id="again")]
    with pytest.raises(Exception, match="two videos show the same one backwards; found 'v0'"):
        manifest([*twice, Video("t", "t", "train", ("t",)), Video("w", "w", "val", ("w",))]).check()
