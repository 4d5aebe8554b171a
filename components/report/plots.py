"""Plots of the report: recall on the whole test split and on its parts, and validation curves."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.evaluation.card import DIRECTIONS, WHOLE, Direction
from components.report.results import AdapterResult
from components.report.tables import Row, parts_in_order

# Colour-blind readers can distinguish these, and so can readers of a grey print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#3c4149",
    "xtick.color": "#3c4149",
    "ytick.color": "#3c4149",
    "axes.axisbelow": True,
    "svg.hashsalt": "reeltune",
}

# One row per epoch: epoch, loss and validation metrics.
Curve = list[dict[str, float]]
CURVE_METRICS = ("loss", "t2v_R@1", "v2t_R@1")


def read_curve(path: Path) -> Curve:
    """The rows of a training's curves.csv. Empty if there is no such file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]


def recall_bars(results: Sequence[AdapterResult], metric: str = "R@1", direction: Direction = "t2v") -> Figure:
    """Bars per method, one panel per task: the whole test split and each of its parts, with a dot per seed."""
    tasks = list(dict.fromkeys(result.task for result in results))
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(4.4 * len(tasks), 3.1), layout="constrained")
        panels = canvas.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
        for panel, task in zip(panels, tasks, strict=True):
            _bars(panel, [result for result in results if result.task == task], metric, direction)
            panel.set_title(task, loc="left", fontweight="bold", fontsize=10)
        panels[0].set_ylabel(f"{DIRECTIONS[direction]} {metric} (%)")
        panels[-1].legend(frameon=False, loc="upper left")
    return canvas


def _bars(panel: Axes, results: Sequence[AdapterResult], metric: str, direction: Direction) -> None:
    methods = list(dict.fromkeys(result.method for result in results))
    parts = parts_in_order({part for result in results for part in result.metrics})
    width = 0.8 / len(parts)
    for offset, part in enumerate(parts):
        for column, method in enumerate(methods):
            values = [result.metrics[part][direction][metric] for result in results if result.method == method]
            x = column + (offset - (len(parts) - 1) / 2) * width
            label = ("whole test set" if part == WHOLE else f"{part} part") if column == 0 else None
            panel.bar(x, mean(values), width * 0.92, color=COLOURS[offset % len(COLOURS)], label=label)
            if len(values) > 1:
                panel.plot([x] * len(values), values, ".", color="#1d2129", markersize=4)
            panel.annotate(
                f"{mean(values):.0f}", (x, max(values)), (0, 2), textcoords="offset points", ha="center", fontsize=7.5
            )
    panel.set_xticks(range(len(methods)), methods)
    panel.tick_params(axis="x", length=0)
    panel.margins(y=0.22)
    panel.grid(axis="y", color="#e6e8eb", linewidth=0.8)


def curve_rows(curves: Mapping[tuple[str, str, int], Curve], metrics: Sequence[str] = CURVE_METRICS) -> list[Row]:
    """One flat row per training and validated epoch."""
    return [
        {
            "name": f"{task} {method}-{seed}",
            "task": task,
            "method": method,
            "seed": seed,
            "epoch": int(row["epoch"]),
            **{metric: row.get(metric, "") for metric in metrics},
        }
        for (task, method, seed), rows in curves.items()
        for row in rows
    ]


def curves(found: Mapping[tuple[str, str, int], Curve], metric: str = "t2v_R@1") -> Figure:
    """A validation metric against the epoch, with a panel per task and a line per training."""
    usable = {key: [row for row in rows if metric in row] for key, rows in found.items()}
    usable = {key: rows for key, rows in usable.items() if rows}
    if not usable:
        canvas = Figure(figsize=(4.4, 1))
        canvas.text(0.5, 0.5, "No training was validated.", ha="center")
        return canvas
    tasks = list(dict.fromkeys(task for task, _, _ in usable))
    methods = list(dict.fromkeys(method for _, method, _ in found))
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(4.4 * len(tasks), 3.1), layout="constrained")
        panels = canvas.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
        for panel, task in zip(panels, tasks, strict=True):
            seen: set[str] = set()
            for (its_task, method, _), rows in usable.items():
                if its_task == task:
                    colour = COLOURS[methods.index(method) % len(COLOURS)]
                    _line(panel, rows, metric, colour, None if method in seen else method)
                    seen.add(method)
            panel.set_title(task, loc="left", fontweight="bold", fontsize=10)
            panel.set_xlabel("epoch")
            panel.grid(axis="y", color="#e6e8eb", linewidth=0.8)
        panels[0].set_ylabel(f"validation {metric.replace('_', ' ')} (%)")
        panels[-1].legend(frameon=False, loc="best")
    return canvas


def _line(panel: Axes, rows: Curve, metric: str, colour: str, label: str | None) -> None:
    if len(rows) == 1:  # nothing was trained: a level to compare with
        panel.axhline(rows[0][metric], color=colour, linewidth=1.2, linestyle="--", label=label)
        return
    epochs = [row["epoch"] for row in rows]
    panel.plot(
        epochs, [row[metric] for row in rows], color=colour, linewidth=1.6, marker="o", markersize=3, label=label
    )


def data_uri(figure: Figure) -> str:
    """The plot as an SVG image for an ``img`` element."""
    return "data:image/svg+xml;base64," + base64.b64encode(_bytes(figure, "svg")).decode()


def png(figure: Figure) -> bytes:
    """The plot as PNG."""
    return _bytes(figure, "png")


def _bytes(figure: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    # Date and version are left out, so that the same results give the same bytes.
    metadata: dict[str, str | None] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format=kind, dpi=160, metadata=metadata)
    return stream.getvalue()
