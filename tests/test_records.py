"""JSON records: what is missing or wrong is named, for paths and URIs alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic.dataclasses import dataclass

from components.config import STRICT
from components.errors import AdapterError, DataError, ReelTuneError
from components.records import read_record, read_tree, write_record


@dataclass(frozen=True, config=STRICT)
class Card:
    """A record of a test."""

    task: str
    sizes: tuple[int, ...]
    note: str | None = None


def uri(path: Path) -> str:
    return path.as_uri()


places = pytest.mark.parametrize("place", [str, uri, Path])


@places
def test_records_come_back(tmp_path: Path, place: Callable[[Path], str | Path]) -> None:
    write_record(place(tmp_path / "card.json"), Card("t", (1, 2)))
    assert read_record(place(tmp_path / "card.json"), Card) == Card("t", (1, 2))


@places
@pytest.mark.parametrize("error", [DataError, AdapterError])
def test_a_missing_file_has_the_promised_error(
    tmp_path: Path, place: Callable[[Path], str | Path], error: type[ReelTuneError]
) -> None:
    for read in (lambda at: read_record(at, Card, error=error, cure="make it"), lambda at: read_tree(at, error=error)):
        with pytest.raises(error, match=r"folder/card\.json: missing") as caught:
            read(place(tmp_path / "folder" / "card.json"))
        assert type(caught.value) is error
    with pytest.raises(error, match="missing; make it"):
        read_record(place(tmp_path / "card.json"), Card, error=error, cure="make it")


@places
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", r"card\.json: not JSON"), (b"[]", "not a JSON object; found 'list'"), (b"\xff", "not UTF-8 at byte 0")],
)
def test_what_is_no_record_is_named(
    tmp_path: Path, place: Callable[[Path], str | Path], content: bytes, message: str
) -> None:
    (tmp_path / "card.json").write_bytes(content)
    with pytest.raises(AdapterError, match=message):
        read_tree(place(tmp_path / "card.json"), error=AdapterError)


def test_all_faulty_fields_are_named(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"sizes": ["1"], "more": 1}))
    with pytest.raises(AdapterError) as caught:
        read_record(tmp_path / "card.json", Card, error=AdapterError)
    text = str(caught.value)
    assert f"{tmp_path / 'card.json'}: 3 fault(s) in this record" in text
    assert all(line in text for line in ("task: missing", "sizes.0: ", "more: unknown key"))
