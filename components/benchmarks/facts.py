"""Further columns of a person's table: what they say of a video, for filters of a search.

A column is a fact if its values are numbers, truth values or texts, all of one kind, and if all rows of a video agree.
Values of CSV are texts, so a column in which each of them is a whole number, a number, or true or false, is read as
such. Other columns are left out and named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from components.benchmarks.rows import Row, Span
from components.manifest import first_few
from components.video import RARE, SCHEMA, Fact, Facts

# Columns that a search has anyway.
TAKEN = frozenset({*SCHEMA.names, *RARE, "thumbnail", "score"})

# As it is written without loss: a postal code such as 01067 is a text.
WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
TRUTH = {"true": True, "false": False}
LARGEST = 2**63 - 1

Parts = dict[tuple[str, Span], Facts]


def read_facts(where: str, rows: Sequence[Row]) -> tuple[Parts, list[str]]:
    """The facts of each part of a file.

    Args:
        where: The path or URI of the table.
        rows: All rows.

    Returns:
        The facts by path and span, and what to say about columns that are left out, one clause for each reason.
    """
    is_text, table = where.endswith(".csv"), PurePosixPath(where).name
    found: dict[tuple[str, Span], list[tuple[str, Fact]]] = {(row.path, row.span): [] for row in rows}
    left_out: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for row in rows for name in row.further):
        try:
            for part, value in _column(name, rows, is_text).items():
                found[part].append((name, value))
        except _NoFactError as reason:
            left_out.setdefault(str(reason), []).append(name)
    notes = [
        f"columns of {table} that are not read, since {why}: {first_few(names)}" for why, names in left_out.items()
    ]
    return {part: Facts(tuple(pairs)) for part, pairs in found.items()}, notes


class _NoFactError(Exception):
    """Why a column is no fact."""


def _column(name: str, rows: Iterable[Row], is_text: bool) -> dict[tuple[str, Span], Fact]:
    if name in TAKEN or name.startswith("reeltune."):
        raise _NoFactError("a search has a column of this name")
    given = [(row, value) for row in rows if not _is_nothing(value := row.further.get(name))]
    kind = _kind_of_texts([str(value) for _, value in given]) if is_text else _kind([value for _, value in given])
    values: dict[tuple[str, Span], Fact] = {}
    for row, raw in given:
        value = kind(raw)
        if values.setdefault((row.path, row.span), value) != value:
            raise _NoFactError("rows of one video differ in them")
    return values


def _is_nothing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))


def _kind_of_texts(texts: Sequence[str]) -> Callable[[object], Fact]:
    if all(WHOLE.fullmatch(text) and abs(int(text)) <= LARGEST for text in texts):
        return lambda text: int(str(text))
    if all(NUMBER.fullmatch(text) and math.isfinite(float(text)) for text in texts):
        return lambda text: float(str(text))
    if all(text.lower() in TRUTH for text in texts):
        return lambda text: TRUTH[str(text).lower()]
    return str


def _kind(values: Sequence[object]) -> Callable[[object], Fact]:
    kinds = {type(value) for value in values}
    if not kinds <= {str, int, float, bool}:
        raise _NoFactError("their values are not numbers, texts, true or false")
    if len(kinds) > 1 and kinds != {int, float}:
        raise _NoFactError("their values are of several kinds")
    if any(type(value) is int and abs(value) > LARGEST for value in values):
        raise _NoFactError("a number is too large")
    are_numbers = kinds == {int, float}

    def convert(value: object) -> Fact:
        assert isinstance(value, Fact)
        return float(value) if are_numbers else value

    return convert
