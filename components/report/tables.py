"""The tables of the report: per task, the whole test split, each of its parts, and each re-scoring."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from components.evaluation.card import DIRECTIONS, METRICS, WHOLE, Direction, Moments
from components.report.results import AdapterResult

# The last columns of the table of the whole test split.
SIZES = ("trainable", "share", "size", "seconds")

# One row of a CSV file.
Row = dict[str, str | int | float]


@dataclass(frozen=True)
class Table:
    """A table of text cells. The first column is a name, the others are numbers.

    Attributes:
        title: One line.
        groups: The heading of each group of columns, and how many columns it spans.
        head: One heading per column.
        rows: As many cells each.
        best: For each row, which cells have the best value of their column.
        notes: What a reader must know before the numbers, one line each.
    """

    title: str
    groups: list[tuple[str, int]]
    head: list[str]
    rows: list[list[str]]
    best: list[list[bool]]
    notes: tuple[str, ...] = ()


def tables_of(results: Sequence[AdapterResult], task: str) -> list[Table]:
    """The tables of one task: the whole test split with sizes, then parts, reversals, moments and each re-scoring.

    Args:
        results: The results of all tasks. Titles name the backbone if these have several.
        task: The task.
    """
    selected = [result for result in results if result.task == task]
    parts = [_table(selected, task, part) for part in _common_parts(selected)]
    tables = [*parts, *_binary_tables(selected, task)]
    tables += [*_moment_tables(selected, task), *_rescored_tables(selected, task)]
    if len({result.backbone for result in results}) < 2:
        return tables
    on = ", on " + " and ".join(dict.fromkeys(result.backbone for result in selected))
    return [dataclasses.replace(table, title=table.title + on) for table in tables]


def _common_parts(results: Sequence[AdapterResult]) -> list[str]:
    """The parts that all results have, the whole first."""
    return parts_in_order(set.intersection(*(set(result.metrics) for result in results)))


def parts_in_order(parts: set[str]) -> list[str]:
    """Parts of the test split, the whole first."""
    return sorted(parts, key=lambda part: (part != WHOLE, part))


def _binary_tables(results: Sequence[AdapterResult], task: str) -> list[Table]:
    """How often a video is told from its reversal, in percent, if the test split has reversals."""
    if not all(result.binary for result in results):
        return []
    methods = list(dict.fromkeys(result.method for result in results))
    values = [[_over_seeds(results, method, _accuracy(direction)) for direction in DIRECTIONS] for method in methods]
    return [
        Table(
            f"{task}: forward or backward, accuracy in percent (chance is 50){_spread(results)}",
            [("", 1), ("", len(DIRECTIONS))],
            ["method", *DIRECTIONS.values()],
            [[method, *map(_cell, line)] for method, line in zip(methods, values, strict=True)],
            [[False, *marks] for marks in _best(values, [True] * len(DIRECTIONS))],
            _warnings(results),
        )
    ]


def _accuracy(direction: Direction) -> Callable[[AdapterResult], float]:
    return lambda result: result.binary[direction].accuracy


def _moment_tables(results: Sequence[AdapterResult], task: str) -> list[Table]:
    """Texts found within their videos, in percent. The first row has the whole video as the answer to each text."""
    found = [result for result in results if result.moments is not None]
    if not found:
        return []
    peer = _moments(found[0])
    names = list(peer.metrics)
    methods = list(dict.fromkeys(result.method for result in found))
    values = [[_over_seeds(found, method, _moment(name)) for name in names] for method in methods]
    rows = [["whole video", *(_cell([peer.whole_video[name]]) for name in names)]]
    rows += [[method, *map(_cell, line)] for method, line in zip(methods, values, strict=True)]
    best = [[False] * (len(names) + 1), *([False, *marks] for marks in _best(values, [True] * len(names)))]
    title = f"{task}: moments, {peer.queries:,} texts found within their {peer.videos:,} videos{_spread(found)}"
    return [Table(title, [("", 1), ("", len(names))], ["answer", *names], rows, best, _warnings(found))]


def _moment(name: str) -> Callable[[AdapterResult], float]:
    return lambda result: _moments(result).metrics[name]


def _moments(result: AdapterResult) -> Moments:
    assert result.moments is not None, "only results with moments are in the table"
    return result.moments


def _rescored_tables(results: Sequence[AdapterResult], task: str) -> list[Table]:
    """One table per re-scoring, with the results that have it. It is never a column next to plain metrics."""
    names = list(dict.fromkeys(name for result in results for name in result.rescored))
    tables = []
    for name in names:
        having = [result for result in results if name in result.rescored]
        shown = [dataclasses.replace(result, metrics={name: result.rescored[name].metrics}) for result in having]
        table = _table(shown, task, name)
        title = f"{task}: whole test set, RE-SCORED by {name}"
        note = f"uses {having[0].rescored[name].uses}: not comparable with plain figures"
        tables.append(dataclasses.replace(table, title=title + _spread(shown), notes=(note, *table.notes)))
    return tables


def _table(results: Sequence[AdapterResult], task: str, part: str) -> Table:
    methods = list(dict.fromkeys(result.method for result in results))
    values = [_values(results, method, part) for method in methods]
    groups, head = [("", 1)], ["method"]
    for text in DIRECTIONS.values():
        groups.append((text, len(METRICS)))
        head += METRICS
    rows = [[method, *map(_cell, line)] for method, line in zip(methods, values, strict=True)]
    higher = [name.startswith("R@") for name in METRICS] * len(DIRECTIONS)
    best = [[False, *marks] for marks in _best(values, higher)]
    if part == WHOLE:
        groups.append(("adapter", len(SIZES)))
        head += SIZES
        rows = [[*row, *_sizes(results, method)] for row, method in zip(rows, methods, strict=True)]
        best = [[*marks, *[False] * len(SIZES)] for marks in best]
    name = "whole test set" if part == WHOLE else f"{part} part of the test set"
    return Table(f"{task}: {name}{_spread(results)}", groups, head, rows, best, _warnings(results))


def _values(results: Sequence[AdapterResult], method: str, part: str) -> list[list[float]]:
    """A method's values by column of a table, one per seed."""
    return [
        _over_seeds(results, method, _metric(part, direction, name)) for direction in DIRECTIONS for name in METRICS
    ]


def _best(values: Sequence[Sequence[Sequence[float]]], higher: Sequence[bool]) -> list[list[bool]]:
    """For each method and column, whether its mean is the best one as shown. One method alone has no best.

    Args:
        values: By method and column, one value per seed.
        higher: For each column, whether a higher value is better.
    """
    marks: list[list[bool]] = [[] for _ in values]
    for column, is_higher in enumerate(higher):
        numbers = [round(mean(line[column]), 1) for line in values]
        target = max(numbers) if is_higher else min(numbers)
        for row, number in zip(marks, numbers, strict=True):
            row.append(number == target and len(values) > 1)
    return marks


def _spread(results: Sequence[AdapterResult]) -> str:
    seeds = sorted({result.seed for result in results})
    return f", mean and standard deviation over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else ""


def _warnings(results: Sequence[AdapterResult]) -> tuple[str, ...]:
    """Each warning of the results once, with the methods that it is about."""
    about: dict[str, list[str]] = {}
    for result in results:
        for text in result.warnings:
            about.setdefault(text, []).append(result.method)
    return tuple(f"WARNING ({', '.join(dict.fromkeys(methods))}): {text}" for text, methods in about.items())


def _metric(part: str, direction: Direction, name: str) -> Callable[[AdapterResult], float]:
    return lambda result: result.metrics[part][direction][name]


def _over_seeds(results: Sequence[AdapterResult], method: str, value: Callable[[AdapterResult], float]) -> list[float]:
    return [value(result) for result in results if result.method == method]


def _cell(values: Sequence[float]) -> str:
    text = f"{mean(values):.1f}"
    return f"{text}±{stdev(values):.1f}" if len(values) > 1 else text


def _sizes(results: Sequence[AdapterResult], method: str) -> list[str]:
    first = next(result for result in results if result.method == method)
    seconds = mean(_over_seeds(results, method, lambda result: result.training_seconds))
    share = 100 * first.backbone_share
    return [f"{first.trainable_parameters:,}", f"{share:.2f}%", size(first.artifact_bytes), f"{seconds:.0f}"]


def size(count: float) -> str:
    """Bytes as B, KB or MB of 1000."""
    if count < 1000:
        return f"{count:.0f} B"
    return f"{count / 1e3:.1f} KB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def plain(table: Table) -> str:
    """The table as aligned text for a terminal."""
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
    """The table in Markdown, with the best value of each column in bold."""
    groups = [text for text, span in table.groups for _ in range(span)]
    short = {text: f"{direction} " for direction, text in DIRECTIONS.items()}
    head = [short.get(group, "") + name for group, name in zip(groups, table.head, strict=True)]
    rows = [
        [f"**{cell}**" if best else cell for cell, best in zip(row, marks, strict=True)]
        for row, marks in zip(table.rows, table.best, strict=True)
    ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    notes = [line for note in table.notes for line in (note, "")]
    return "\n".join([f"### {table.title}", "", *notes, *("| " + " | ".join(line) + " |" for line in lines)])


def task_names(results: Sequence[AdapterResult]) -> list[str]:
    """The tasks of the results, in their order."""
    return list(dict.fromkeys(result.task for result in results))


def all_tables(results: Sequence[AdapterResult]) -> list[Table]:
    """The tables of every task."""
    return [table for task in task_names(results) for table in tables_of(results, task)]


def plain_all(results: Sequence[AdapterResult]) -> str:
    """All tables as text for a terminal."""
    return "\n\n".join(plain(table) for table in all_tables(results))


def markdown_all(results: Sequence[AdapterResult]) -> str:
    """All tables in Markdown."""
    return "\n\n".join(markdown(table) for table in all_tables(results)) + "\n"


def recall_rows(results: Sequence[AdapterResult]) -> list[Row]:
    """One flat row per result, part of the test split and direction, for plots."""
    return [
        {
            "name": f"{result.task} {part} {direction} {result.method}-{result.seed}",
            "task": result.task,
            "method": result.method,
            "seed": result.seed,
            "direction": direction,
            "subset": part,
            **{name: metrics[direction][name] for name in METRICS},
        }
        for result in results
        for part, metrics in result.metrics.items()
        for direction in DIRECTIONS
    ]


def mean_metrics(results: Sequence[AdapterResult]) -> dict[str, dict[str, dict[str, float]]]:
    """Task, method and metric to the mean over the seeds. This is what ``dvc metrics diff`` compares."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for result in results:
        leaf = values.setdefault(result.task, {}).setdefault(result.method, {})
        for part, metrics in result.metrics.items():
            for direction in DIRECTIONS:
                for name in ("R@1", "R@10", "MdR"):
                    leaf.setdefault(f"{part} {direction} {name}", []).append(metrics[direction][name])
    return {
        task: {
            method: {key: round(math.fsum(numbers) / len(numbers), 3) for key, numbers in leaf.items()}
            for method, leaf in methods.items()
        }
        for task, methods in values.items()
    }
