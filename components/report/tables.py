"""Figures of all trainings: one record per task, method and seed, and the tables made of them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from components.errors import DataError
from components.evaluation.card_text import warnings_of
from components.layout import Layout

DIRECTIONS = ("t2v", "v2t")
FIGURES = ("R@1", "R@5", "R@10", "MdR", "MnR")
WHOLE = "all"

Record = dict[str, Any]


def read_records(root: Path, combinations: Iterable[tuple[str, str, int]]) -> tuple[list[Record], list[str]]:
    """Records of what has been evaluated, and the names of what has not.

    Args:
        root: the project's folder.
        combinations: task, method and seed, in the order of the tables.

    Raises:
        DataError: nothing has been evaluated, or a file is damaged.
    """
    layout = Layout(root)
    records, missing = [], []
    for task, method, seed in combinations:
        name = f"{task}/{method}-{seed}"
        adapter, card = layout.adapter(task, method, seed), layout.scorecards(task, method, seed) / "test.json"
        if not card.exists() or not (adapter / "training.json").exists():
            missing.append(name)
            continue
        records.append(
            _record(read_json(card), read_json(adapter / "adapter.json"), read_json(adapter / "training.json"), adapter)
        )
    if not records:
        raise DataError("no scorecards", where=layout.all_scorecards, cure="train and evaluate first: dvc repro")
    return records, missing


def _record(card: Record, adapter: Record, training: Record, folder: Path) -> Record:
    where = folder / "adapter.json"
    try:
        return {
            "task": card["task"],
            "method": card["method"],
            "seed": card["seed"],
            "metrics": card["metrics"],
            "rescored": card.get("rescored", {}),
            "warnings": warnings_of(card),
            "trainable_parameters": adapter["trainable"],
            "backbone_share": adapter["share"],
            "artifact_bytes": sum((folder / name).stat().st_size for name in ("adapter.json", "adapter.safetensors")),
            "training_seconds": training["seconds"],
        }
    except KeyError as error:
        raise DataError("field is missing", where=where, found=str(error), cure="train and evaluate again") from None


def read_json(path: Path) -> Record:
    """A JSON object from a file.

    Raises:
        DataError: missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError("cannot be read", where=path, found=error.strerror) from None
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=path) from None
    return dict(content)


@dataclass(frozen=True)
class Table:
    """A table of text cells; the first column is a name, the others are numbers.

    Attributes:
        title: one line.
        groups: heading and width in columns of each group of columns.
        head: one heading per column.
        rows: as many cells each.
        best: per row, which cells hold the best value of their column.
        notes: what a reader must know before the figures, a line each.
    """

    title: str
    groups: list[tuple[str, int]]
    head: list[str]
    rows: list[list[str]]
    best: list[list[bool]]
    notes: tuple[str, ...] = ()


def tables_of(records: Sequence[Record], task: str) -> list[Table]:
    """The tables of one task: the whole test set with sizes, each named part of it, then each re-scoring on its own."""
    mine = [record for record in records if record["task"] == task]
    parts = sorted(
        set.intersection(*(set(record["metrics"]) for record in mine)), key=lambda part: (part != WHOLE, part)
    )
    return [*(_table(mine, task, part) for part in parts), *_rescored_tables(mine, task)]


def _rescored_tables(records: Sequence[Record], task: str) -> list[Table]:
    """A table per re-scoring, of the records that have it: never a column beside plain figures."""
    names = list(dict.fromkeys(name for record in records for name in record.get("rescored", {})))
    tables = []
    for name in names:
        having = [record for record in records if name in record.get("rescored", {})]
        shown = [{**record, "metrics": {name: record["rescored"][name]}} for record in having]
        table = _table(shown, task, name)
        title = f"{task}: whole test set, RE-SCORED by {name}"
        note = f"uses {having[0]['rescored'][name]['uses']}: not comparable with plain figures"
        tables.append(dataclasses.replace(table, title=title + _spread(shown), notes=(note, *table.notes)))
    return tables


def _table(records: Sequence[Record], task: str, part: str) -> Table:
    methods = list(dict.fromkeys(record["method"] for record in records))
    columns = [_metric(part, direction, figure) for direction in DIRECTIONS for figure in FIGURES]
    groups = [("", 1), ("text to video", len(FIGURES)), ("video to text", len(FIGURES))]
    head = ["method", *FIGURES, *FIGURES]
    if part == WHOLE:
        groups.append(("adapter", 4))
        head += ["trainable", "share", "size", "seconds"]
    values = [[_over_seeds(records, method, column) for column in columns] for method in methods]
    rows = [
        [method, *(_cell(cell) for cell in line), *(_sizes(records, method) if part == WHOLE else [])]
        for method, line in zip(methods, values, strict=True)
    ]
    best = [[False] * len(head) for _ in methods]
    for column in range(len(columns)):
        numbers = [round(mean(line[column]), 1) for line in values]
        target = max(numbers) if FIGURES[column % len(FIGURES)].startswith("R@") else min(numbers)
        for row, number in enumerate(numbers):
            best[row][column + 1] = number == target and len(methods) > 1
    name = "whole test set" if part == WHOLE else f"{part} part of the test set"
    return Table(f"{task}: {name}{_spread(records)}", groups, head, rows, best, _warnings(records))


def _spread(records: Sequence[Record]) -> str:
    seeds = sorted({record["seed"] for record in records})
    return f", mean and standard deviation over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""


def _warnings(records: Sequence[Record]) -> tuple[str, ...]:
    """Each warning of the records' cards once, with the methods it is about."""
    about: dict[str, list[str]] = {}
    for record in records:
        for text in record.get("warnings", []):
            about.setdefault(text, []).append(record["method"])
    return tuple(f"WARNING ({', '.join(dict.fromkeys(methods))}): {text}" for text, methods in about.items())


def _metric(part: str, direction: str, figure: str) -> Callable[[Record], float]:
    return lambda record: float(record["metrics"][part][direction][figure])


def _over_seeds(records: Sequence[Record], method: str, value: Callable[[Record], float]) -> list[float]:
    return [value(record) for record in records if record["method"] == method]


def _cell(values: Sequence[float]) -> str:
    text = f"{mean(values):.1f}"
    return f"{text}±{stdev(values):.1f}" if len(values) > 1 else text


def _sizes(records: Sequence[Record], method: str) -> list[str]:
    first = next(record for record in records if record["method"] == method)
    seconds = mean(_over_seeds(records, method, lambda record: record["training_seconds"]))
    share = 100 * first["backbone_share"]
    return [f"{first['trainable_parameters']:,}", f"{share:.2f}%", size(first["artifact_bytes"]), f"{seconds:.0f}"]


def size(count: float) -> str:
    """Bytes as B, KB or MB of 1000."""
    if count < 1000:
        return f"{count:.0f} B"
    return f"{count / 1e3:.1f} KB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def plain(table: Table) -> str:
    """The table as aligned text, for a terminal."""
    lines = [table.head, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.head))]
    starts, column = [], 0
    for text, span in table.groups:
        width = sum(widths[column : column + span]) + 2 * (span - 1)
        starts.append(f" {text} ".center(width, "-") if text else " " * width)
        column += span
    text_lines = ["  ".join(_aligned(line, widths)) for line in lines]
    return "\n".join([table.title, *table.notes, "  ".join(starts), *text_lines])


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]


def markdown(table: Table) -> str:
    """The table in Markdown, the best value of each column in bold."""
    groups = [text for text, span in table.groups for _ in range(span)]
    short = {"text to video": "t2v ", "video to text": "v2t "}
    head = [short.get(group, "") + name for group, name in zip(groups, table.head, strict=True)]
    rows = [
        [f"**{cell}**" if best else cell for cell, best in zip(row, marks, strict=True)]
        for row, marks in zip(table.rows, table.best, strict=True)
    ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    notes = [line for note in table.notes for line in (note, "")]
    return "\n".join([f"### {table.title}", "", *notes, *("| " + " | ".join(line) + " |" for line in lines)])


def task_names(records: Sequence[Record]) -> list[str]:
    """The tasks of the records, in their order."""
    return list(dict.fromkeys(record["task"] for record in records))


def all_tables(records: Sequence[Record]) -> list[Table]:
    """The tables of every task."""
    return [table for task in task_names(records) for table in tables_of(records, task)]


def plain_all(records: Sequence[Record]) -> str:
    """All tables as text for a terminal."""
    return "\n\n".join(plain(table) for table in all_tables(records))


def markdown_all(records: Sequence[Record]) -> str:
    """All tables in Markdown."""
    return "\n\n".join(markdown(table) for table in all_tables(records)) + "\n"


def recall_rows(records: Sequence[Record]) -> list[Record]:
    """One flat row per record, direction and part of the test set, for plots."""
    return [
        {
            "name": f"{record['task']} {part} {direction} {record['method']}-{record['seed']}",
            "task": record["task"],
            "method": record["method"],
            "seed": record["seed"],
            "direction": direction,
            "subset": part,
            **{figure: record["metrics"][part][direction][figure] for figure in FIGURES},
        }
        for record in records
        for part in record["metrics"]
        for direction in DIRECTIONS
    ]


def metric_tree(records: Sequence[Record]) -> Record:
    """task -> method -> mean figures over the seeds: what ``dvc metrics diff`` compares."""
    tree: Record = {}
    for row in recall_rows(records):
        leaf = tree.setdefault(row["task"], {}).setdefault(row["method"], {})
        for figure in ("R@1", "R@10", "MdR"):
            leaf.setdefault(f"{row['subset']} {row['direction']} {figure}", []).append(float(row[figure]))
    for methods in tree.values():
        for leaf in methods.values():
            leaf.update({name: round(math.fsum(values) / len(values), 3) for name, values in leaf.items()})
    return tree
