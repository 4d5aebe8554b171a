"""Rows of a ledger that show another video backwards, or a window of it: they fit it, or the ledger is refused."""

from __future__ import annotations

import pyarrow as pa
import pytest

from components.errors import DataError
from components.frames import schema
from components.frames.card import StoredShard
from components.frames.checks import check_ledger

SHARDS = (StoredShard("shard-00000.parquet", 1, "", 2),)


def row(name: str, place: int | None, reverse_of: str | None = None) -> dict[str, object]:
    status = schema.FAILED if place is None else schema.DECODED
    texts = {"split": "test", "reason": "", "detail": "", "decoder": "pyav"}
    return {
        "video_id": name,
        **texts,
        "status": status,
        "frames": 2,
        "shard": 0,
        "row": place,
        "reverse_of": reverse_of,
    }


def check(*rows: dict[str, object]) -> None:
    check_ledger(pa.Table.from_pylist(list(rows), schema=schema.LEDGER_WITH_REVERSALS), SHARDS, "ledger.parquet")


A, B = row("a", 0), row("b", 1)


def test_a_reversal_shares_the_place_of_its_video_decoded_or_failed() -> None:
    check(A, row("a_reverse", 0, "a"), B)
    check(A, row("a_reverse", 0, "a"), B, row("c", None), row("c_reverse", None, "c"))


@pytest.mark.parametrize(
    "wrong",
    [
        row("a_reverse", 1, "a"),
        row("a_reverse", None, "a"),
        row("a_reverse", 0, "gone"),
        row("a_reverse", 0, "a_reverse"),
    ],
)
def test_a_reversal_with_another_place_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"ledger\.parquet: a video that runs backwards .*found 'a_reverse'; .*ingest"):
        check(A, wrong, B)


def test_the_places_of_the_others_are_still_checked() -> None:
    with pytest.raises(DataError, match="the ledger does not fit the shards"):
        check(A, row("a_reverse", 0, "a"))


def windows(*rows: dict[str, object]) -> None:
    table = pa.Table.from_pylist(list(rows), schema=schema.LEDGER_SCHEMA.append(schema.WINDOW_OF))
    check_ledger(table, SHARDS, "ledger.parquet")


def test_a_window_has_a_place_and_a_decoded_video() -> None:
    windows(A, {**B, "window_of": "a"}, row("c", None))


@pytest.mark.parametrize(
    ("wrong", "more"),
    [
        ({"window_of": "gone"}, []),
        ({"window_of": "a", "split": "val"}, []),
        ({"window_of": "b"}, []),
        ({"window_of": "c"}, [row("c", None)]),
    ],
)
def test_a_window_without_its_video_is_named(wrong: dict[str, str], more: list[dict[str, object]]) -> None:
    with pytest.raises(DataError, match=r"ledger\.parquet: a window is not of a decoded video .*found 'b'; .*ingest"):
        windows(A, {**B, **wrong}, *more)
