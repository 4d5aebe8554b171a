from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_world
import torch
import trained_world
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_world import TASK

from components.adapters.file import load_adapter
from components.errors import AdapterError, ConfigError, DataError, ReelTuneError
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.search import index as indexes
from components.search.backbones import shared_backbone
from components.search.hits import Hit, clock, format_hits
from components.search.query import Searcher, from_adapter
from components.search.words import FULL_BEGINNINGS


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One adapter and its index of the test split, in which one video could not be decoded."""
    root = tmp_path_factory.mktemp("searched")
    tiny_world.write_project(root, failed_test=1)
    params = tiny_world.params(root)
    trained_world.add_adapter(root, params, "mv_adapter", 0)
    write_index(root, "mv_adapter-0")
    return root


@pytest.fixture(scope="module")
def searcher(world: Path) -> Searcher:
    return Searcher.open(world, TASK)


def write_index(root: Path, name: str) -> None:
    params = tiny_world.params(root)
    adapter = root / "outputs" / "adapters" / TASK / name
    store = FrameStore(root / "outputs" / "frames" / TASK)
    method = load_adapter(adapter, shared_backbone(params.backbone, root))
    made = indexes.build(method, store, split="test", adapter_sha256=indexes.read_card(adapter).sha256, batch_size=3)
    indexes.write(made, root / "outputs" / "indexes" / TASK, adapter, {"split": "test"})


def test_scores_are_the_cosines_of_single_encodings_in_falling_order(world: Path) -> None:
    searcher = Searcher.open(world, TASK)
    hits = searcher.search("a red square moves right", top=100)
    store = FrameStore(world / "outputs" / "frames" / TASK)
    assert sorted(hit.video_id for hit in hits) == sorted(store.ids("test"))
    assert [hit.rank for hit in hits] == list(range(1, 8))
    method = searcher.method
    reader = FrameReader(store, method.backbone.resize, method.frames, cache_mib=0)
    with torch.no_grad():
        text = method.encode_text(method.backbone.tokenize(["a red square moves right"], method.words))
        for hit in hits:
            frames, mask = reader.batch([hit.video_id])
            video = method.encode_video(method.backbone.normalize(frames), mask)
            assert hit.score == pytest.approx(float(video[0] @ text[0]), abs=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_hit_is_readable_in_one_line() -> None:
    hit = Hit(1, "clip\n7", 0.31249, 61.25, 3700.0, "data/x y.mp4", b"\xff\xd8 a picture")
    assert repr(hit) == "Hit(1, 0.312, 01:01.2-1:01:40.0, 'clip\\n7', 'data/x y.mp4')"
    assert str([hit]) == f"[{hit!r}]"


def test_a_hit_says_where_and_shows_a_frame(world: Path) -> None:
    from PIL import Image

    hit = Searcher.open(world, TASK).search("a blue square", top=1)[0]
    assert hit.uri == f"data/tiny/videos/{hit.video_id}.mp4"
    assert (hit.start_seconds, hit.end_seconds) in ((0.0, 1.0), (0.0, 0.75))
    assert Image.open(io.BytesIO(hit.thumbnail)).size == (32, 32)


def test_searchers_share_one_backbone(world: Path) -> None:
    one, two = Searcher.open(world, TASK), Searcher.open(world, TASK)
    assert one.method.backbone is two.method.backbone


def test_equal_scores_keep_the_order_of_the_collection(world: Path) -> None:
    searcher = Searcher.open(world, TASK)
    part = searcher.index.segments[0]
    same = dataclasses.replace(part, vectors=np.repeat(part.vectors[:1], len(part.vectors), axis=0))
    hits = Searcher(searcher.method, indexes.Index(searcher.index.card, (same,))).search("anything", top=5)
    assert [hit.video_id for hit in hits] == searcher.index.table()["video_id"].to_pylist()[:5]


def test_an_adapter_without_an_index_embeds_the_same_vectors(world: Path) -> None:
    params = tiny_world.params(world)
    adapter = world / "outputs" / "adapters" / TASK / "mv_adapter-0"
    ready, reason = from_adapter(adapter, world, TASK, params.backbone, split="test", top=3, batch_size=4)
    assert reason is None
    trained_world.add_adapter(world, params, "vop", 0)
    other = world / "outputs" / "adapters" / TASK / "vop-0"
    fresh, reason = from_adapter(other, world, TASK, params.backbone, split="test", top=3, batch_size=4)
    assert reason == "the task's index was made with another"
    assert fresh.index.count == ready.index.count
    assert not np.allclose(fresh.index.blocks[0], ready.index.blocks[0], atol=1e-3)


def test_long_texts_say_how_many_words_were_kept(world: Path) -> None:
    searcher = Searcher.open(world, TASK)
    assert searcher.kept_words("a red square moves right") == (5, 5)
    long = "red " * 50
    assert searcher.kept_words(long) == (searcher.method.words - 2, 50)
    kept = " ".join(long.split()[: searcher.method.words - 2])
    assert searcher.search(long, 3) == searcher.search(kept, 3)


def first_equal_beginning(searcher: Searcher, text: str) -> int | None:
    """The definition of ``kept_words``, which tries every beginning. None if no early one has the same tokens."""
    words = text.split()
    whole = searcher.method.backbone.tokenize([text], searcher.method.words)[0]
    if not words or int(whole[-1]) == 0:
        return len(words)
    beginnings = [" ".join(words[:count]) for count in range(1, len(words) + 1)]
    rows = searcher.method.backbone.tokenize(beginnings, searcher.method.words)
    found = [count for count, row in enumerate(rows, 1) if torch.equal(row, whole)]
    full = [count for count, row in enumerate(rows, 1) if int(row[-1]) != 0]
    # Splitting at rare spaces and joining with blanks can change the last token: then no beginning is equal.
    return found[0] if found and found[0] < full[0] + FULL_BEGINNINGS else None


PIECES = st.one_of(
    st.sampled_from(
        ["red", "Square,", "supercalifragilistic", "it's", "12", "...", "&nbsp;", "&amp;", "doÃ±a", "\u200b"]
    ),
    st.text(max_size=6),
)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=30).map(" ".join))
def test_kept_words_are_the_first_beginning_with_the_same_tokens(searcher: Searcher, text: str) -> None:
    kept, total = searcher.kept_words(text)
    assert total == len(text.split())
    expected = first_equal_beginning(searcher, text)
    assert kept == expected if expected is not None else 1 <= kept <= total


def test_the_words_of_a_long_text_are_counted_in_linear_time(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = Searcher.open(world, TASK)
    backbone, sizes = searcher.method.backbone, list[int]()
    tokenize = backbone.tokenize

    def counted(texts: list[str], words: int) -> torch.Tensor:
        sizes.extend(len(text) for text in texts)
        return tokenize(texts, words)

    monkeypatch.setattr(backbone, "tokenize", counted)
    text = "red " * 20_000
    assert searcher.kept_words(text) == (searcher.method.words - 2, 20_000)
    assert sum(sizes) < 2 * len(text)


def test_a_text_without_an_equal_beginning_is_counted_in_linear_time_too(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = Searcher.open(world, TASK)
    backbone, calls = searcher.method.backbone, list[int]()
    tokenize = backbone.tokenize

    def counted(texts: list[str], words: int) -> torch.Tensor:
        calls.append(1)
        tokens = tokenize(texts, words)
        # As a clean-up that reads the whole text would: its first piece is another one.
        tokens[:, 1] = len(texts[0]) % 7 + 2
        return tokens

    monkeypatch.setattr(backbone, "tokenize", counted)
    kept, total = searcher.kept_words("redly " * 4_000)
    assert total == 4_000
    assert 0 < kept <= searcher.method.words - 2
    assert len(calls) <= searcher.method.words + FULL_BEGINNINGS


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_text_is_refused(world: Path, text: str) -> None:
    with pytest.raises(ReelTuneError, match="the text is empty"):
        Searcher.open(world, TASK).search(text)


def test_faults_name_the_cure(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ReelTuneError, match="top"):
        Searcher.open(world, TASK).search("a", top=0)
    with pytest.raises(ConfigError, match=f"unknown task.*{TASK}"):
        Searcher.open(world, "tyni")
    root = tmp_path / "copy"
    shutil.copytree(world, root)
    folder = root / "outputs" / "indexes" / TASK
    next(folder.glob("segments/*/vectors.npy")).write_bytes(b"NUMPY no more")
    with pytest.raises(DataError, match=r"vectors\.npy: damaged.*run python pipelines/index\.py --task tiny"):
        Searcher.open(root, TASK)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"no search index.*pipelines/index\.py --task tiny"):
        Searcher.open(root, TASK)


def test_an_index_of_another_backbone_is_refused(world: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    root = tmp_path / "copy"
    shutil.copytree(world, root)
    weights = root / "models" / "mini.safetensors"
    save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights)
    with pytest.raises(AdapterError, match="another backbone"):
        Searcher.open(root, TASK)


def test_a_published_index_is_replaced_whole(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(world, root)
    folder = root / "outputs" / "indexes" / TASK
    (folder / "left-over").touch()
    write_index(root, "mv_adapter-0")
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter.json",
        "adapter.safetensors",
        "index.json",
        "segments",
    ]
    one, two = indexes.read(folder), indexes.read(world / "outputs" / "indexes" / TASK)
    assert np.array_equal(one.blocks[0], two.blocks[0])


@given(st.floats(0, 100_000))
def test_a_clock_reads_back(seconds: float) -> None:
    hours, minutes, rest = ("0:" + clock(seconds)).rsplit(":", 2)
    hours = hours.removeprefix("0:") or "0"
    assert float(rest) < 60
    assert int(minutes) < 60
    assert int(hours) * 3600 + int(minutes) * 60 + float(rest) == pytest.approx(seconds, abs=0.051)


def test_hits_are_an_aligned_table() -> None:
    hits = [Hit(9, "a", 0.5, 0.0, 2.0, "x.mp4", b""), Hit(10, "long-id", -0.25, 61.25, 3700.0, "y.mp4", b"")]
    assert format_hits(hits).splitlines() == [
        "rank   score  span               video    file",
        "   9   0.500  00:00.0-00:02.0    a        x.mp4",
        "  10  -0.250  01:01.2-1:01:40.0  long-id  y.mp4",
    ]
