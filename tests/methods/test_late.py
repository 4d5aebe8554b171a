"""Late interaction by the formula, word by word and frame by frame; in training, evaluation and search."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny_world
import torch
from tiny_backbone import TEXTS, WORDS, clips
from torch import Tensor
from variants import BACKBONE, make

from components.backbones.load import load_backbone
from components.errors import ConfigError, DataError
from components.evaluation.encode import EncodedSplit, encode_frames, encode_texts, without_rounding
from components.evaluation.ranks import text_to_video, video_to_text
from components.evaluation.rescoring import Bank, rescored_ranks
from components.evaluation.reversals import binary
from components.frames.store import FrameStore
from components.methods.base import Method
from components.methods.build import build
from components.methods.entries import canonical, check_searchable
from components.methods.late import MaxSim
from components.methods.reader import reader_for
from components.params import load_params
from components.search import index
from components.video import Video

REPOSITORY = Path(__file__).parents[2]


def by_the_formula(method: Method, frames: Tensor, mask: Tensor, texts: list[str]) -> Tensor:
    """Scores of texts (rows) and videos by loops in float64, from the plain towers of an untrained [late]."""
    tower, u = BACKBONE.text, dict(method.named_parameters()).get("weight")
    scores = torch.zeros(len(texts), len(frames), dtype=torch.float64)
    for row, text in enumerate(texts):
        pieces = BACKBONE.tokenizer.encode(text)[: WORDS - 2]
        ids = torch.tensor([[BACKBONE.tokenizer.sot_token_id, *pieces, BACKBONE.tokenizer.eot_token_id]])
        x = tower.token_embedding(ids) + tower.positional_embedding[: ids.shape[1]]
        blocked = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)
        for block in tower.layers.blocks:
            x = block(x, attn_mask=blocked)
        words = (tower.ln_final(x) @ tower.text_projection)[0, 1:].double()
        logits = words @ (torch.zeros(words.shape[1]) if u is None else u).double()
        weights = logits.exp() / logits.exp().sum()
        for column in range(len(frames)):
            shown = BACKBONE.vision(frames[column][mask[column]]).double()
            for weight, word in zip(weights, words, strict=True):
                cosines = [word @ frame / (word.norm() * frame.norm()) for frame in shown]
                scores[row, column] += weight * max(cosines)
    return scores


@pytest.mark.parametrize("weights", ["learned", "mean"])
def test_the_scores_are_the_formulas(weights: str) -> None:
    method, (frames, mask) = make("late", weights=weights), clips(BACKBONE)
    with torch.no_grad():
        expected = by_the_formula(method, frames, mask, TEXTS)
        video, text = method(frames, mask, BACKBONE.tokenize(TEXTS, WORDS))
        found = method.similarity
        assert (found.matrix(text, video) - expected).abs().max() <= 1e-5
        assert (found.transposed(video, text) - expected.T).abs().max() <= 1e-5
        assert (found.rows(text, video) - expected.diagonal()).abs().max() <= 1e-5


def test_a_word_of_the_wrong_frame_counts_nothing() -> None:
    """Two words find their frames in different places; a mean over the frames would halve both."""
    similarity = MaxSim(2, 2)
    text = torch.tensor([[0.5, 0.0, 0.0, 0.5]])
    videos = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]])
    assert similarity.matrix(text, videos).tolist() == [[1.0, 1.0, 0.5]]
    assert similarity.same(videos[:1], videos[1:2], 0.0).tolist() == [True]
    assert similarity.same(videos[:1], videos[2:], 0.0).tolist() == [False]


def split(seed: int = 0, videos: int = 7, texts: int = 9) -> EncodedSplit:
    """Random vectors of 3 frames and 4 words of 5 numbers; some videos have several captions, one has no vector."""
    generator = torch.Generator().manual_seed(seed)
    owner = torch.arange(texts) % (videos - 1)
    present = torch.ones(videos, dtype=torch.bool)
    present[2] = False
    made = tuple(Video(f"v{row}", f"v{row}.mp4", "test", ("a",)) for row in range(videos))
    vectors = torch.randn(videos, 15, generator=generator), torch.randn(texts, 20, generator=generator)
    return EncodedSplit(made, present, vectors[0], ("a",) * texts, owner, vectors[1], {}, MaxSim(5, 3))


def brute(texts: Tensor, videos: Tensor) -> np.ndarray:
    words, frames = texts.double().view(len(texts), 4, 5), videos.double().view(len(videos), 3, 5)
    return torch.einsum("qld,ntd->qnlt", words, frames).amax(-1).sum(-1).float().numpy()


@pytest.mark.parametrize("chunk_bytes", [1, 5_000, 2**26])
def test_ranks_of_both_directions_in_any_chunks(chunk_bytes: int) -> None:
    done = split()
    scores = brute(done.text_vectors, done.video_vectors)
    scores[:, ~done.present.numpy()] = -np.inf
    owner = done.owner.numpy()
    expected = [1 + int((row > row[own]).sum()) for row, own in zip(scores, owner, strict=True)]
    arguments = (done.text_vectors, done.video_vectors, done.owner, done.present)
    found = text_to_video(*arguments, chunk_bytes=chunk_bytes, similarity=done.similarity)
    answerable = done.present[done.owner].numpy()
    assert found.expected[answerable].tolist() == [rank for rank, had in zip(expected, answerable, strict=True) if had]
    best = np.full((7, 7), -np.inf)
    for text, candidate in enumerate(owner):
        best[:, candidate] = np.maximum(best[:, candidate], scores[text])
    reverse = video_to_text(*arguments, chunk_bytes=chunk_bytes, similarity=done.similarity)
    asked = [0, 1, 3, 4, 5]  # the third has no vector, and the last no caption
    assert reverse.expected[asked].tolist() == [1 + int((best[row] > best[row, row]).sum()) for row in asked]


def test_rescoring_uses_the_methods_scores() -> None:
    done, settings = split(), load_params(REPOSITORY / "params.yaml").evaluation
    bank = Bank(split(1).text_vectors, split(1).video_vectors)
    scores = brute(done.text_vectors, done.video_vectors).astype(np.float64)[:, done.present.numpy()]
    t = settings.dual_softmax.temperature
    changed = scores * np.exp(scores / t - np.log(np.exp((scores - scores.max(0)) / t).sum(0)) - scores.max(0) / t)
    kept = np.cumsum(done.present.numpy()) - 1
    ranks = rescored_ranks("dual_softmax", done, settings, None, 2_000)["t2v"].expected
    for row, own in enumerate(done.owner.tolist()):
        if done.present[own]:
            assert ranks[row] == 1 + (changed[row] > changed[row, kept[own]]).sum()
    both = rescored_ranks("qb_norm", done, settings, bank)
    assert {direction: len(found.expected) for direction, found in both.items()} == {"t2v": 9, "v2t": 7}


def test_a_reversal_is_as_near_to_every_text_as_its_video() -> None:
    """Frames in another order give the same maxima, so the choice between both is at chance."""
    done = split()
    reverse = done.video_vectors.view(7, 3, 5).flip(1).flatten(1) + 1e-7
    videos = tuple(dataclasses.replace(v, video_id=f"{v.video_id}r", reverse_of=v.video_id) for v in done.videos)
    both = torch.cat([done.video_vectors, reverse])
    gallery = without_rounding((*done.videos, *videos), both, done.similarity)
    assert torch.equal(gallery[7:], gallery[:7])
    whole = dataclasses.replace(
        done, videos=(*done.videos, *videos), video_vectors=gallery, present=torch.ones(14, dtype=torch.bool)
    )
    assert binary(whole, 10)["t2v"].accuracy == 50.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    root = tmp_path_factory.mktemp("late")
    tiny_world.write_project(root, train=4, val=2, test=5)
    return FrameStore(root / "outputs" / "frames" / tiny_world.TASK)


def test_an_index_refuses_a_vector_per_frame(store: FrameStore) -> None:
    root = Path(store.uri).parents[2]
    backbone = load_backbone(tiny_world.params(root).backbone, root)
    raw = {"method": ["lora", "late"], "lr": 1e-2}
    method = build("both", raw, backbone, frames=tiny_world.FRAMES, words=16)
    with pytest.raises(DataError, match="keeps a vector per frame and word, and here a video has one"):
        index.build(method, store, split="test", adapter_sha256="", batch_size=2)
    with pytest.raises(ConfigError, match=r"leave it out of tracking\.methods"):
        check_searchable(canonical("both", raw)[0], "tracking.methods, both")
    check_searchable("vop+mv_adapter", "tracking.methods, both")


def test_a_frame_alone_scores_as_the_words_do_on_it(store: FrameStore) -> None:
    """What moments are found by: each word's cosine with this frame, weighted."""
    root = Path(store.uri).parents[2]
    backbone = load_backbone(tiny_world.params(root).backbone, root)
    method = build(
        "both", {"method": ["lora", "late"], "lr": 1e-2}, backbone, frames=tiny_world.FRAMES, words=16
    ).eval()
    ids = store.ids("test")[:2]
    frames = encode_frames(method, reader_for(method, store), ids, 2)
    text = encode_texts(method, ["a red circle moves up"], 1)
    scores = method.similarity.matrix(text, frames[0])
    width = method.spec.embed_dim
    alone = frames[0].unflatten(1, (-1, width))[:, 0]
    expected = (text.view(-1, width) @ alone.T).sum(dim=0)
    assert scores.shape == (1, tiny_world.FRAMES)
    assert torch.allclose(scores[0], expected, atol=1e-5)
    assert expected.std() > 0
