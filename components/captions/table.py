"""Ready captions of frames from a table: CSV, JSON lines or Parquet, with a row per frame.

The columns are ``video_id``, ``caption``, and ``frame`` or ``seconds``. ``frame`` is the number of a stored frame of
the video, from 0. ``seconds`` is a time, which means the stored frame that is shown nearest to it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from components.benchmarks.parse import text_of
from components.benchmarks.rows import raw_rows
from components.captions.file import FrameCaptions
from components.errors import DataError
from components.frames.store import FrameStore
from components.manifest import first_few

log = logging.getLogger(__name__)

NEEDED, PLACES = ("video_id", "caption"), ("frame", "seconds")


def captions_of_table(where: str, store: FrameStore, ids: Sequence[str]) -> FrameCaptions:
    """The captions of all frames of the videos ``ids``. Rows of other videos are left out.

    Args:
        where: The path or URI of the table.
        store: The frames.
        ids: At least one decoded video.

    Raises:
        DataError: The table is missing or damaged, a row has no caption or names no frame of its video, two rows are of
            one frame, or a frame has no row.
    """
    times = {name: found[0] for name, found in store.times(ids).items()}
    found: dict[str, dict[int, tuple[str, str]]] = {name: {} for name in ids}
    others: dict[str, None] = {}
    for place, row in raw_rows(where, NEEDED, PLACES):
        name = row["video_id"]
        if not isinstance(name, str) or name not in found:
            others[str(name)] = None
            continue
        number = _frame(place, row, times[name])
        if number in found[name]:
            raise DataError(
                "frame has two captions",
                where=place,
                found=f"frame {number} of {name}",
                expected="one row per frame",
                cure=f"remove this row or {found[name][number][0]}",
            )
        found[name][number] = place, text_of(place, row["caption"])
    if others:
        log.info("%s: rows of videos without training frames are left out: %s", where, first_few(list(others)))
    if without := [name for name in ids if len(found[name]) < len(times[name])]:
        some = without[0]
        missing = min(set(range(len(times[some]))) - set(found[some]))
        raise DataError(
            "training frames have no caption",
            where=where,
            found=f"no row for frame {missing} of {some}; in all, frames are missing of {first_few(without)}",
            expected="a row for each frame of each training video",
            cure="add the rows",
        )
    return {name: tuple(found[name][number][1] for number in range(len(times[name]))) for name in ids}


def _frame(place: str, row: Mapping[str, object], times: Sequence[float]) -> int:
    """The number of the frame that a row is about."""
    given = {name: row[name] for name in PLACES if row.get(name) not in (None, "")}
    if len(given) != 1:
        raise DataError(
            "row does not say which frame it is about",
            where=place,
            found=", ".join(given) or "neither",
            expected="a value in one of the columns frame and seconds",
        )
    ((column, value),) = given.items()
    number = _number(value)
    if column == "seconds" and 0 <= number < math.inf:
        return min(range(len(times)), key=lambda index: abs(times[index] - number))
    if column == "frame" and number in range(len(times)):
        return int(number)
    expected = f"0 to {len(times) - 1}" if column == "frame" else "seconds, 0 or more"
    raise DataError(f"{column} is not a place in the video", where=place, found=value, expected=expected)


def _number(value: object) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
