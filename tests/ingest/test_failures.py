"""How many failed videos a store may have: few always, a small share of many, and never a whole split."""

from __future__ import annotations

from pathlib import Path

import pytest
from video_files import small_params

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
    ("decoded", "failed", "settings", "accepted"),
    [
        (8, 1, (), True),
        (3, 3, (), True),
        (2, 3, (), False),
        (40, 4, (), False),
        (95, 5, (), True),
        (94, 6, (), False),
        (8, 1, ("frames.max_failed_videos=0",), False),
        (1000, 1, ("frames.max_failed_share=0.0",), False),
        (8, 0, ("frames.max_failed_share=0.0", "frames.max_failed_videos=0"), True),
    ],
)
def test_few_failures_or_a_small_share_are_accepted(
    tmp_path: Path, decoded: int, failed: int, settings: tuple[str, ...], accepted: bool
) -> None:
    limits = small_params(tmp_path, *settings).frames
    if accepted:
        check_failures("mine", ledger(decoded, failed), limits, tmp_path)
        return
    with pytest.raises(DataError, match=r"(?s)task mine: too many videos failed.*\(frames\.max_failed_videos\)"):
        check_failures("mine", ledger(decoded, failed), limits, tmp_path)


def test_a_split_without_videos_is_refused_with_a_cure(tmp_path: Path) -> None:
    rows = [*ledger(8, 0), *ledger(0, 1, "val")]
    with pytest.raises(DataError, match=r"(?s)no video of a split .*found 'val'.*take them out") as caught:
        check_failures("mine", rows, small_params(tmp_path).frames, tmp_path)
    assert "val-0" in str(caught.value)
