"""Videos of shapes-clips and their reversals, from MP4 files to a scorecard, in the form of RTime.

Each file is decoded once. A method that does not see the order of frames is exactly at chance, and one that was trained
on both directions is not.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_world
import torch

from components.backbones.load import load_backbone
from components.benchmarks import rtime
from components.embedded import captions, collections
from components.embedded.collections import VideoPlan
from components.embedded.scene import REVERSE
from components.embedded.settings import DemoTaskSettings
from components.evaluation.card import Identity, ScorecardHead, read_scorecard
from components.evaluation.card_text import describe
from components.evaluation.encode import encode_split
from components.evaluation.scorecard import make_scorecard, write_scorecard
from components.evaluation.validation import Validation
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.ingest.decoders import DECODERS
from components.ingest.isolation import Recipe
from components.ingest.publish import write_store
from components.ingest.records import Settings
from components.ingest.shards import flat_ledger, make_shard, plan_shards
from components.methods.base import Method
from components.methods.build import build
from components.params import load_params
from components.training.loop import fit

REPOSITORY = Path(__file__).parents[2]
SIZES = DemoTaskSettings(
    seconds=1.6, train_random=120, train_groups=1, val_random=6, val_groups=1, test_random=45, test_groups=1
)
FRAMES, WORDS = 6, 32
FILES = {"train": "train.json", "val": "valid.json", "test": "test.json"}


def entry(plan: VideoPlan, rng: np.random.Generator) -> dict[str, object]:
    """The captions of a clip and of the clip played backwards."""
    (event,) = plan.events
    assert event.motion is not None
    back = dataclasses.replace(event, motion=REVERSE[event.motion])
    forward, reverse = ([captions.clip_caption(e, rng) for _ in range(3)] for e in (event, back))
    return {
        "temporal": True,
        "reverse": True,
        "forward_captions": forward[:1],
        "reverse_captions": reverse[:1],
        "forward_rewrites": forward[1:],
        "reverse_rewrites": reverse[1:],
        "url": "",
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection in the form of RTime, with its videos decoded into a store."""
    root = tmp_path_factory.mktemp("reversed")
    folder, rng = root / "data", np.random.default_rng(5)
    (folder / "videos").mkdir(parents=True)
    plans = [plan for plan in collections.plan_clips(SIZES, seed=3) if plan.events[0].motion and not plan.temporal]
    for split, name in FILES.items():
        mine = {plan.video_id.removeprefix("video"): plan for plan in plans if plan.split == split}
        (folder / name).write_text(json.dumps({video_id: entry(plan, rng) for video_id, plan in mine.items()}))
        for video_id, plan in mine.items():
            collections.write_video(plan, folder / "videos" / f"{video_id}.mp4", size=64, fps=10)
    manifest = rtime.read("reversed", str(folder), {})
    manifest.check()
    recipe = Recipe(DECODERS.target("auto"), "segment_center", FRAMES, 64, 90)
    settings = Settings(recipe, "auto", 64, 8, 60.0, 4096)
    store = root / "store"
    store.mkdir()
    with settings.process() as process:
        shards = plan_shards(manifest, settings.shard_videos)
        records = [make_shard(shard, root, store, settings, process) for shard in shards]
    assert sum(done.tried for done in records) == len(plans)
    write_store(store, manifest, settings, records, flat_ledger(records, manifest))
    return root


@pytest.fixture(scope="module")
def store(root: Path) -> FrameStore:
    return FrameStore(root / "store")


def method_of(name: str, **settings: object) -> Method:
    params = load_params(REPOSITORY / "params.yaml")
    backbone = load_backbone(params.backbone, REPOSITORY)
    return build(name, {**params.method(name), **settings}, backbone, frames=FRAMES, words=WORDS)


def card_of(method: Method, store: FrameStore, folder: Path, batch: int = 16) -> ScorecardHead:
    reader = FrameReader(store, method.backbone.resize, FRAMES, cache_mib=64)
    encoded = encode_split(method.eval(), store, reader, "test", batch)
    identity = Identity(task="reversed", method="some", seed=0)
    write_scorecard(folder, make_scorecard(encoded, store.manifest, "test", identity))
    return read_scorecard(folder, "test")


def test_a_reversal_is_the_stored_video_backwards(store: FrameStore) -> None:
    ids = store.ids("test")
    forward, backward = (list(store.read(some)) for some in (ids[::2], ids[1::2]))
    for one, other in zip(forward, backward, strict=True):
        assert other.video_id == one.video_id + rtime.REVERSAL
        assert other.frames == one.frames[::-1]
        assert other.timestamps_seconds == one.timestamps_seconds[::-1]
        assert other.content_sha256 == one.content_sha256
    assert sum(shard.videos for shard in store.card.shards) * 2 == len(store.manifest.videos)
    reader = FrameReader(store, lambda clip: clip, FRAMES, cache_mib=64)
    for _ in range(2):  # from the store, then from memory
        frames, mask = reader.batch(ids[:2])
        assert mask.all()
        assert (frames[0] == frames[1].flip(0)).all()
        assert (frames[0] != frames[1]).any()


@pytest.mark.parametrize("batch", [5, 16])
def test_zero_shot_is_exactly_at_chance(store: FrameStore, tmp_path: Path, batch: int) -> None:
    card = card_of(method_of("zero_shot"), store, tmp_path, batch)
    text, video = card.binary["t2v"], card.binary["v2t"]
    assert (text.accuracy, text.tied, text.interval) == (50.0, text.queries, (50.0, 50.0))
    assert (video.accuracy, video.queries) == (50.0, len(store.ids("test")))
    # Each caption ties with the reversal of its video, so nobody is surely first among originals and reversals.
    assert card.metrics["all"]["t2v"]["R@1"] == 0.0
    assert card.ties["all"]["t2v"].queries == card.queries
    assert card.metrics["origin"]["t2v"]["R@1"] > 20.0
    assert "accuracy 50.0 [50.0, 50.0]" in describe(card)


@pytest.mark.slow
def test_a_temporal_method_tells_forward_from_backward(root: Path, store: FrameStore, tmp_path: Path) -> None:
    torch.manual_seed(0)
    method = method_of("mv_adapter", lr=1e-2)
    tiny_world.write_params(tmp_path)
    training = tiny_world.training(
        tmp_path, epochs=5, batch_size=24, batching="random", validation_every=5, select_on="last"
    )
    fit(method, store, training, tiny_world.execution(tmp_path, cache_mib=256), 0, validate=Validation(16))
    card = card_of(method, store, tmp_path / "cards")
    for found, accuracy in ((card.binary["t2v"], 70.0), (card.binary["v2t"], 58.0)):
        assert found.tied == 0
        assert found.interval[0] > 50.0
        assert found.accuracy > accuracy
    assert card.metrics["all"]["t2v"]["R@1"] > 50.0
    assert card.gallery == card.queries == 2 * card.subset_queries["origin"]["t2v"]
