"""Tokenizers from files, against what open_clip's HFTokenizer over transformers 5.24 makes of the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import tokenizer_files as made

from components.backbones.tokenizers import FileTokenizer, load_tokenizer
from components.errors import BackboneError

CONTEXT = 12
TEXTS = ["A red circle; moves LEFT!", "", "</s> two blue_squares <pad> 世界"]
# HFTokenizer(folder, context_length=12, clean=...)(TEXTS), made once with the files of tokenizer_files.py.
EXPECTED = {
    "siglip": [
        [3, 4, 6, 9, 10, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [17, 36, 12, 5, 8, 17, 33, 18, 21, 17, 2, 1],
    ],
    "siglip2": [
        [261, 332, 342, 355, 359, 1, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [279, 367, 336, 260, 345, 330, 279, 260, 276, 261, 264, 1],
    ],
    "xlm": [
        [0, 18, 45, 5, 7, 85, 10, 18, 56, 49, 50, 2],
        [0, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [0, 2, 13, 6, 3, 37, 35, 39, 19, 36, 23, 2],
    ],
}
SPECIAL = {"siglip": (None, 1, 1), "siglip2": (None, 1, 0), "xlm": (0, 2, 1)}


def rows(tokenizer: Any) -> list[list[int]]:
    """The texts cut to the context, with special tokens and padding."""
    found = []
    for text in TEXTS:
        start = [] if tokenizer.sot_token_id is None else [tokenizer.sot_token_id]
        row = [*start, *tokenizer.encode(text)[: CONTEXT - 1 - len(start)], tokenizer.eot_token_id]
        found.append(row + [tokenizer.pad_token_id] * (CONTEXT - len(row)))
    return found


@pytest.fixture(params=["siglip", "siglip2", "xlm"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_tokens_equal_those_of_open_clip(tmp_path: Path, kind: str) -> None:
    made.write(tmp_path, kind)
    tokenizer = load_tokenizer(made.config(kind), tmp_path)
    assert rows(tokenizer) == EXPECTED[kind]
    assert (tokenizer.sot_token_id, tokenizer.eot_token_id, tokenizer.pad_token_id) == SPECIAL[kind]
    highest = max(json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"], key=lambda token: token["id"])
    assert tokenizer.vocab_size > max(max(row) for row in rows(tokenizer)) >= highest["id"]


def test_a_file_alone_has_the_padding_of_the_published_model(tmp_path: Path, kind: str) -> None:
    made.write(tmp_path, kind)
    (tmp_path / "tokenizer_config.json").unlink()
    assert rows(load_tokenizer(made.config(kind), tmp_path / "tokenizer.json")) == EXPECTED[kind]
    with pytest.raises(
        BackboneError, match=r"padding is not known; expected a pad_token .* fetch tokenizer_config\.json"
    ):
        load_tokenizer(made.config(kind, hf_tokenizer_name="owner/another"), tmp_path)


def test_settings_of_the_file_for_batches_do_not_cut_or_pad(tmp_path: Path, kind: str) -> None:
    made.write(tmp_path, kind)
    tree = json.loads((tmp_path / "tokenizer.json").read_text())
    tree["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tree["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0,
        "pad_token": "<pad>",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    assert rows(load_tokenizer(made.config(kind), tmp_path)) == EXPECTED[kind]


def test_the_hash_follows_file_cleaning_and_padding(tmp_path: Path) -> None:
    made.write(tmp_path, "siglip")
    path = tmp_path / "tokenizer.json"
    hashes = [FileTokenizer(path, clean).sha256 for clean in ("canonicalize", "whitespace")]
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": {"content": "<pad>"}}')
    hashes.append(FileTokenizer(path).sha256)
    path.write_text(path.read_text().replace("▁circle", "▁ring"))
    hashes.append(FileTokenizer(path).sha256)
    assert len(set(hashes)) == 4


def test_clips_tokenizer_needs_no_file() -> None:
    tokenizer = load_tokenizer({"text_cfg": {"context_length": 20}}, None)
    assert isinstance(tokenizer, open_clip.SimpleTokenizer)
    assert tokenizer.encode("A Red circle") == open_clip.SimpleTokenizer().encode("a red circle")


class TestBadInput:
    def refused(self, place: Path | None, **text: Any) -> str:
        with pytest.raises(BackboneError) as caught:
            load_tokenizer(made.config("siglip2", **text), place)
        return str(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        for place in (None, tmp_path, tmp_path / "tokenizer.json"):
            text = self.refused(place)
            assert "the model's tokenizer is missing; expected tokenizer.json and tokenizer_config.json of the" in text
            assert "`python pipelines/weights.py tokenizer timm/ViT-B-16-SigLIP2 --to weights/`" in text

    def test_cut_off_or_something_else(self, tmp_path: Path) -> None:
        made.write(tmp_path, "siglip2")
        content = (tmp_path / "tokenizer.json").read_bytes()
        for damaged in (content[:5000], b"", b"[]", b"[" * 100_000, b"version https://git-lfs.github.com/spec/v1\n"):
            (tmp_path / "tokenizer.json").write_bytes(damaged)
            text = self.refused(tmp_path)
            assert text.startswith(f"{tmp_path / 'tokenizer.json'}: tokenizer cannot be read; found ")
            assert text.endswith("fetch it again")

    def test_a_config_that_is_none_or_names_no_token(self, tmp_path: Path) -> None:
        made.write(tmp_path, "siglip2")
        (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "[PAD]"}')
        assert "padding is not known; found {'pad_token': '[PAD]'}" in self.refused(tmp_path)
        (tmp_path / "tokenizer_config.json").write_text("[]")
        assert "tokenizer_config.json: not a JSON object" in self.refused(tmp_path)

    def test_special_tokens_of_another_form(self, tmp_path: Path) -> None:
        made.write(tmp_path, "siglip2")
        tree = json.loads((tmp_path / "tokenizer.json").read_text())
        tree["post_processor"] = None
        (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
        assert "expected at most one token before a text and one after it" in self.refused(tmp_path)

    def test_options_that_change_tokens(self, tmp_path: Path) -> None:
        text = self.refused(tmp_path, tokenizer_kwargs={"clean": "lower", "strip_sep_token": True})
        assert "unsupported tokenizer; found {'strip_sep_token': True}" in text
        assert "found {'tokenizer_mode': 'clips'}" in self.refused(tmp_path, tokenizer_mode="clips")
        made.write(tmp_path, "siglip2")
        text = self.refused(tmp_path, tokenizer_kwargs={"clean": "shout"})
        assert "unknown cleaning of texts; found 'shout'; expected canonicalize, lower, whitespace" in text
