"""Real MSR-VTT clips in the real pipeline: ingest, features of a ViT-B/32 with random weights, scorecard."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys

import open_clip
import pytest
import torch
from ruamel.yaml import YAML
from video_files import REPOSITORY, SHARED

from components.backbones.clip import Backbone
from components.backbones.load import create
from components.evaluation.card import Identity
from components.evaluation.encode import encode_split
from components.evaluation.scorecard import make_scorecard
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.build import build
from components.recipes import apply

CLIPS = SHARED / "clips"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are missing"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    """A store of three clips of the published test file. Two more train and validate, so that no split is empty."""
    root = tmp_path_factory.mktemp("real")
    folder = root / "data" / "msrvtt"
    shutil.copytree(CLIPS, folder / "videos", ignore=shutil.ignore_patterns("*.md", "*.csv"))
    with (CLIPS / "MSRVTT_JSFUSION_test.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with (folder / "MSRVTT_JSFUSION_test.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[:3])
    for name, row in (("MSRVTT_train.9k.csv", rows[3]), ("MSRVTT_val.csv", rows[4])):
        (folder / name).write_text(f"video_id\n{row['video_id']}\n")
    sentences = [{"video_id": row["video_id"], "caption": row["sentence"]} for row in rows[3:]]
    data = {"videos": [{"video_id": row["video_id"]} for row in rows[3:]], "sentences": sentences}
    (folder / "MSRVTT_data.json").write_text(json.dumps(data))
    shutil.copy(REPOSITORY / "params.yaml", root / "params.yaml")
    apply(root / "params.yaml", REPOSITORY / "params" / "msrvtt.yaml", "mv_adapter")
    command = [sys.executable, str(REPOSITORY / "pipelines" / "ingest.py"), "--root", str(root), "--task", "msrvtt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "5 of 5 videos decoded, 0 failed" in done.stdout
    return FrameStore(root / "outputs" / "frames" / "msrvtt")


def test_frames_are_a_second_apart_as_the_recipe_says(store: FrameStore) -> None:
    recipe = YAML(typ="safe").load((REPOSITORY / "params" / "msrvtt.yaml").read_text(encoding="utf-8"))["mv_adapter"]
    assert store.card.settings.sampling == recipe["frames"]["sampling"] == "mv_adapter"
    reader = FrameReader(store, lambda frames: frames[..., :224, :224], 12, cache_mib=0)
    frames, mask = reader.batch(store.ids("test"))
    assert frames.shape == (3, 12, 3, 224, 224)
    assert mask.sum(dim=1).min() >= 10


def test_features_and_scorecard(store: FrameStore) -> None:
    torch.manual_seed(0)
    clip = create("ViT-B-32", open_clip.get_model_config("ViT-B-32"), quick_gelu=True)
    backbone = Backbone(clip, "ViT-B-32", open_clip.SimpleTokenizer())
    method = build("zero_shot", {}, backbone, frames=12, words=32)
    reader = FrameReader(store, backbone.resize, method.frames, cache_mib=0)
    encoded = encode_split(method, store, reader, "test", 3)
    assert encoded.video_vectors.shape == encoded.text_vectors.shape == (3, 512)
    assert torch.allclose(encoded.video_vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    identity = Identity(task="msrvtt", method="zero_shot", seed=0)
    card = make_scorecard(encoded, store.manifest, "test", identity).card
    assert (card.queries, card.gallery, card.failed_videos) == (3, 3, 0)
    assert card.protocol.benchmark == "msrvtt"
    assert all(1 <= metrics["MnR"] <= 3 for metrics in card.metrics["all"].values())
