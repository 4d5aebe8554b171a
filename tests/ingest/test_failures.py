"""How many failed videos a store may have: few always, a small share of many, and never a whole split."""

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


def test_a_split_without_videos_is_refused_with_a_cure() -> None:
    rows = [*ledger(8, 0), *ledger(0, 1, "val")]
    with pytest.raises(DataError, match=r"(?s)no video of a split .*found 'val'.*take them out") as caught:
        check_failures("mine", rows, 0.05, Path("ledger"), 3)
    assert "val-0" in str(caught.value)
