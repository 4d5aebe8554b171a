"""The plots of the report: recall on the whole test set and on its parts, and validation curves."""

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

from components.report.tables import WHOLE, Record

# Colour-blind readers can tell these colours apart, and they differ in grey.
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

Curve = list[dict[str, float]]
CURVE_FIGURES = ("loss", "t2v_R@1", "v2t_R@1")


def read_curve(path: Path) -> Curve:
    """The rows of a training's curves.csv with epoch, loss and validation metrics. Without a file there are none."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]


def recall_bars(records: Sequence[Record], figure: str = "R@1", direction: str = "t2v") -> Figure:
    """Bars per method and a panel per task: the whole test set next to each of its parts, with a dot per seed."""
    tasks = list(dict.fromkeys(record["task"] for record in records))
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(4.4 * len(tasks), 3.1), layout="constrained")
        panels = canvas.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
        for panel, task in zip(panels, tasks, strict=True):
            _bars(panel, [record for record in records if record["task"] == task], figure, direction)
            panel.set_title(task, loc="left", fontweight="bold", fontsize=10)
        panels[0].set_ylabel(f"{'text to video' if direction == 't2v' else 'video to text'} {figure} (%)")
        panels[-1].legend(frameon=False, loc="upper left")
    return canvas


def _bars(panel: Axes, records: Sequence[Record], figure: str, direction: str) -> None:
    methods = list(dict.fromkeys(record["method"] for record in records))
    parts = sorted({part for record in records for part in record["metrics"]}, key=lambda part: (part != WHOLE, part))
    width = 0.8 / len(parts)
    for offset, part in enumerate(parts):
        for column, method in enumerate(methods):
            values = [
                float(record["metrics"][part][direction][figure]) for record in records if record["method"] == method
            ]
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


def curve_rows(found: Mapping[tuple[str, str, int], Curve], figures: Sequence[str] = CURVE_FIGURES) -> list[Record]:
    """One row per training and validated epoch."""
    return [
        {
            "name": f"{task} {method}-{seed}",
            "task": task,
            "method": method,
            "seed": seed,
            "epoch": int(row["epoch"]),
            **{figure: row.get(figure, "") for figure in figures},
        }
        for (task, method, seed), rows in found.items()
        for row in rows
    ]


def curves(found: Mapping[tuple[str, str, int], Curve], figure: str = "t2v_R@1") -> Figure:
    """A validation metric against the epoch, with a line per training and a panel per task."""
    usable = {key: [row for row in rows if figure in row] for key, rows in found.items()}
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
                    _line(panel, rows, figure, colour, None if method in seen else method)
                    seen.add(method)
            panel.set_title(task, loc="left", fontweight="bold", fontsize=10)
            panel.set_xlabel("epoch")
            panel.grid(axis="y", color="#e6e8eb", linewidth=0.8)
        panels[0].set_ylabel(f"validation {figure.replace('_', ' ')} (%)")
        panels[-1].legend(frameon=False, loc="best")
    return canvas


def _line(panel: Axes, rows: Curve, figure: str, colour: str, label: str | None) -> None:
    if len(rows) == 1:  # nothing was trained, so the value is a level to compare with
        panel.axhline(rows[0][figure], color=colour, linewidth=1.2, linestyle="--", label=label)
        return
    epochs = [row["epoch"] for row in rows]
    panel.plot(
        epochs, [row[figure] for row in rows], color=colour, linewidth=1.6, marker="o", markersize=3, label=label
    )


def data_uri(figure: Figure) -> str:
    """The plot as an SVG image for an ``img`` element."""
    return "data:image/svg+xml;base64," + base64.b64encode(_bytes(figure, "svg")).decode()


def png(figure: Figure) -> bytes:
    """The plot as PNG."""
    return _bytes(figure, "png")


def _bytes(figure: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    # Without date and version, the same plots give the same bytes.
    metadata: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format=kind, dpi=160, metadata=metadata)
    return stream.getvalue()
