"""Questions of several parts, of pictures, videos and hits, and what of their answers is left."""

from __future__ import annotations

import io
from pathlib import Path

import filmed_world
import numpy as np
import pytest
import torch
from held_index import HeldIndex, copied
from PIL import Image
from trained_world import TASK

from components.errors import DataError, ReelTuneError
from components.frames.jpeg import decode_frames
from components.frames.store import FrameStore
from components.search.query import Searcher
from components.search.question import Part, Question, combine, read_questions, weighted


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filmed")
    filmed_world.write_filmed(root)
    return root


@pytest.fixture(scope="module")
def searcher(world: Path) -> Searcher:
    return Searcher.open(world, TASK)


def ask(*parts: Part) -> Question:
    return Question(parts)


def test_the_order_is_that_of_the_weighted_sum_of_scores(searcher: Searcher) -> None:
    one, other = ({h.video_id: h.score for h in searcher.search(text, 8)} for text in ("a red square", "it moves up"))
    hits = searcher.search(ask(Part("text", "a red square"), Part("text", "it moves up", -0.5)), 8)
    sums = {name: one[name] - 0.5 * other[name] for name in one}
    assert [hit.video_id for hit in hits] == sorted(sums, key=lambda name: -sums[name])
    factors = np.array([hit.score / sums[hit.video_id] for hit in hits])
    assert factors == pytest.approx(factors[0], rel=1e-2)


def test_a_sentence_with_weight_is_the_sentence(searcher: Searcher) -> None:
    plain = searcher.search("a red square", 3)
    assert searcher.search(ask(Part("text", "a red square", 3.0)), 3) == plain
    both = searcher.search(ask(Part("text", "a red square"), Part("text", "a red square", 2.0)), 3)
    assert [hit.score for hit in both] == pytest.approx([hit.score for hit in plain], abs=2e-6)


def test_texts_of_several_questions_keep_their_questions(searcher: Searcher) -> None:
    mixed: list[str | Question] = [
        "a blue square",
        ask(Part("like", "test000"), Part("text", "a red square", -1)),
        ask(Part("text", "it moves"), Part("text", "a green square", 0.5)),
    ]
    together = searcher.search_many(mixed, 3)
    alone = [searcher.search(question, 3) for question in mixed]
    for one, other in zip(together, alone, strict=True):
        assert [hit.video_id for hit in one] == [hit.video_id for hit in other]
        assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=2e-6)


def test_a_film_of_the_collection_finds_itself(world: Path, searcher: Searcher) -> None:
    film = world / "data/tiny/videos/test002.mp4"
    hit = searcher.search(ask(Part("video", str(film))), 1)[0]
    assert (hit.video_id, hit.score) == ("test002", pytest.approx(1.0, abs=1e-5))


def test_more_like_this_is_what_its_vector_finds_without_itself(world: Path, searcher: Searcher) -> None:
    film = world / "data/tiny/videos/test002.mp4"
    by_file = searcher.search(ask(Part("video", str(film))), 8)
    by_id = searcher.search(ask(Part("like", "test002")), 8)
    assert [hit.video_id for hit in by_id] == [hit.video_id for hit in by_file[1:]]
    assert [hit.score for hit in by_id] == pytest.approx([hit.score for hit in by_file[1:]], abs=1e-5)


def test_a_picture_is_a_video_of_one_frame(world: Path, searcher: Searcher, tmp_path: Path) -> None:
    """The same as the method's encoder gives for the frame alone, whatever the picture's size and format."""
    store = FrameStore(world / "outputs" / "frames" / TASK)
    jpeg = next(store.read(["test001"])).frames[0]
    path = tmp_path / "frame.png"
    with Image.open(io.BytesIO(jpeg)) as frame:
        frame.resize((64, 64), Image.Resampling.NEAREST).save(path)
    method = searcher.method
    with torch.inference_mode():
        frames = method.backbone.resize(torch.from_numpy(decode_frames([jpeg])).permute(0, 3, 1, 2))[None]
        alone = method.encode_video(method.backbone.normalize(frames), torch.ones(1, 1, dtype=torch.bool))[0].numpy()
    hits = searcher.search(ask(Part("picture", str(path))), 8)
    rows, vectors = copied(searcher.index)
    scores = {row["video_id"]: float(vector @ alone) for row, vector in zip(rows, vectors, strict=True)}
    assert {hit.video_id: hit.score for hit in hits} == pytest.approx(scores, abs=0.02)


def test_a_turned_picture_is_turned_and_a_grey_one_is_read(searcher: Searcher, tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20] = 255
    upright, turned = tmp_path / "a.png", tmp_path / "b.jpg"
    Image.fromarray(pixels).save(upright)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to show
    Image.fromarray(np.rot90(pixels).copy()).save(turned, exif=exif, quality=95)
    one, other = (searcher.search(ask(Part("picture", str(path))), 3) for path in (upright, turned))
    assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], abs=0.02)
    Image.fromarray(pixels[:, :, 0]).convert("LA").save(tmp_path / "grey.png")
    assert searcher.search(ask(Part("picture", str(tmp_path / "grey.png"))), 1)


@pytest.mark.parametrize("kind", ["picture", "video"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jpg", None, "no file under this path"),
        ("empty.jpg", b"", "zero bytes"),
        ("words.jpg", b"these are words and no picture" * 9, "cannot be read"),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    searcher: Searcher, tmp_path: Path, kind: str, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: the {kind} cannot be read.*") as caught:
        searcher.search(ask(Part(kind, str(path))))  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_that_would_fill_the_memory_is_refused(
    searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "large.png")
    Image.new("RGB", (170, 10)).save(tmp_path / "strip.png")
    with pytest.raises(DataError, match="one side of the picture is more than 16 times the other"):
        searcher.search(ask(Part("picture", str(tmp_path / "strip.png"))))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(DataError, match="DecompressionBombWarning"):
        searcher.search(ask(Part("picture", str(tmp_path / "large.png"))))


def test_questions_without_an_answer_say_why(searcher: Searcher) -> None:
    with pytest.raises(ReelTuneError, match=r"question: all weights are negative; found 'minus snow, minus 0.5\*rain'"):
        ask(Part("text", "snow", -1), Part("text", "rain", -0.5))
    with pytest.raises(ReelTuneError, match="a weight must be a number other than 0"):
        ask(Part("text", "snow", 0.0))
    with pytest.raises(ReelTuneError, match="a weight must be a number other than 0"):
        ask(Part("text", "snow", float("nan")))
    with pytest.raises(ReelTuneError, match="the text is empty"):
        ask(Part("text", " "))
    with pytest.raises(ReelTuneError, match="nothing is asked"):
        ask()
    with pytest.raises(ReelTuneError, match="cancel each other out"):
        searcher.search(ask(Part("text", "snow"), Part("text", "snow", -1)))
    with pytest.raises(DataError, match=r"no such video; found 'test02'; expected the id of one of its 8.*'test002'"):
        searcher.search(ask(Part("like", "test02")))


def test_a_condition_comes_before_the_best(searcher: Searcher) -> None:
    everything = searcher.search("a red square", 8)
    # One row is copied and ranked alone, most rows are picked out of the ranking of all.
    for where in ("id == 'train001'", "id in ['val000', 'test003', 'train000', 'test001', 'val001']"):
        left = [hit for hit in everything if hit.video_id in where]
        for top in (1, 3, 100):
            found = searcher.search("a red square", top, where=where)
            assert [(h.video_id, h.score) for h in found] == [(h.video_id, h.score) for h in left[:top]]
            assert [h.rank for h in found] == list(range(1, len(found) + 1))
    answer = searcher.answer(["a red square"], where="length > 999")[0]
    assert list(answer.hits) == []
    assert list(answer.notes) == ["nothing found: no video meets the condition length > 999"]


def test_near_duplicates_are_folded_and_named(searcher: Searcher) -> None:
    rows, vectors = copied(searcher.index)
    ids = [row["video_id"] for row in rows]
    vectors[ids.index("test003")] = vectors[ids.index("test000")]
    twice = Searcher(searcher.method, HeldIndex(rows, vectors).as_index)
    plain = [hit.video_id for hit in twice.search("a red square", 8)]
    folded = twice.search("a red square", 8, near_duplicates=0.999999)
    first = min(("test000", "test003"), key=plain.index)
    other = "test003" if first == "test000" else "test000"
    assert [hit.video_id for hit in folded] == [name for name in plain if name != other]
    assert {hit.video_id: hit.folded for hit in folded if hit.folded} == {first: (other,)}
    assert [hit.rank for hit in folded] == list(range(1, 8))
    whole = twice.search("a red square", 8, near_duplicates=-1.0)
    assert [hit.video_id for hit in whole] == plain[:1]
    assert set(whole[0].folded) == set(plain[1:])


def test_a_part_reads_its_weight() -> None:
    assert weighted("text", "snow") == Part("text", "snow", 1.0)
    assert weighted("text", "0.5*deep snow", -1) == Part("text", "deep snow", -0.5)
    assert weighted("text", "2 * 3 dogs") == Part("text", "3 dogs", 2.0)
    assert weighted("picture", "a*b.jpg") == Part("picture", "a*b.jpg", 1.0)
    assert str(ask(Part("text", "a dog"), Part("text", "snow", -0.5))) == "a dog, minus 0.5*snow"


@pytest.mark.parametrize("given", ["-0.5*snow", "1,5*snow", "+.*snow"])
def test_what_is_almost_a_weight_is_refused(given: str) -> None:
    with pytest.raises(ReelTuneError, match=r"not a weight; found .*; expected as in 0\.5\*snow"):
        weighted("text", given, -1)


def test_the_sum_of_parts_is_normalised_and_one_part_keeps_its_bits() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    assert torch.equal(combine(vectors[:1], [0.3]), vectors[0])
    found = combine(vectors, [1.0, 2.0, -0.5])
    total = vectors[0] + 2 * vectors[1] - 0.5 * vectors[2]
    assert torch.allclose(found, total / total.norm(), atol=1e-6)
    assert float(found.norm()) == pytest.approx(1.0)


def test_a_file_of_questions_has_one_per_line(tmp_path: Path) -> None:
    path = tmp_path / "queries.txt"
    path.write_text("a red square\n\n  eine rote Fläche \r\n", encoding="utf-8")
    assert [str(question) for question in read_questions(path)] == ["a red square", "eine rote Fläche"]
    path.write_text("\n \n")
    with pytest.raises(ReelTuneError, match=r"queries\.txt: no question in this file"):
        read_questions(path)
    with pytest.raises(DataError, match="gone"):
        read_questions(tmp_path / "gone.txt")
