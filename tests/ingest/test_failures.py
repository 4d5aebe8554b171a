"""How many failed videos a store may have: few always, and a small share of many. A split that is lost is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import DataError
from components.ingest.publish import check_failures
from components.ingest.records import LedgerRow


def ledger(decoded: int, failed: int, split: str = "train") -> list[LedgerRow]:
    """Rows of a split. The reason does not matter."""
    rows = [LedgerRow(f"{split}{n}", split, "decoded", "", "", "pyav", 0, 4, 0, n) for n in range(decoded)]
    names = [f"{split}-{number}" for number in range(failed)]
    lost = [LedgerRow(name, split, "failed", "unreadable", "", "auto", None, 0, 0, None) for name in names]
    return [*rows, *lost]


@pytest.mark.parametrize(
    ("decoded", "failed", "share", "few", "accepted"),
    [
        (8, 1, 0.05, 3, True),
        (3, 3, 0.05, 3, True),
        (2, 3, 0.05, 3, False),
        (40, 4, 0.05, 3, False),
        (95, 5, 0.05, 3, True),
        (94, 6, 0.05, 3, False),
        (8, 1, 0.05, 0, False),
        (1000, 1, 0.0, 3, False),
        (8, 0, 0.0, 0, True),
    ],
)
def test_few_failures_or_a_small_share_are_accepted(
    decoded: int, failed: int, share: float, few: int, accepted: bool
) -> None:
    if accepted:
        check_failures("mine", ledger(decoded, failed), share, Path("ledger"), few)
        return
    with pytest.raises(DataError, match=rf"(?s)task mine: too many videos failed.*or {few} videos \(frames"):
        check_failures("mine", ledger(decoded, failed), share, Path("ledger"), few)


def test_a_split_that_is_lost_is_named_and_stops_nothing_else() -> None:
    rows = [*ledger(8, 0), *ledger(0, 1, "val"), *ledger(1, 1, "test")]
    [note] = check_failures("mine", rows, 0.05, Path("ledger"), 3)
    assert note.startswith("task mine: no video of the split val could be decoded (unreadable: val-0). The others")
    assert "a scorecard needs one: replace these, or take them out of the collection, and run ingest again" in note
    [note] = check_failures("mine", [*ledger(0, 2), *ledger(3, 0, "test")], 0.05, Path("ledger"), 3)
    assert "no video of the split train could be decoded (unreadable: train-0, train-1)" in note
    assert "training needs one" in note


@pytest.mark.parametrize("share", [0.05, 1.0])
def test_a_collection_that_is_lost_is_refused_with_a_cure(share: float) -> None:
    with pytest.raises(DataError, match=r"(?s)too many videos failed.*train-0.*found '100\.0%'.*take them out"):
        check_failures("mine", ledger(0, 1), share, Path("ledger"), 3)
