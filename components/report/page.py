"""The report's files: results, tables, plots and one self-contained page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from components import storage
from components.adapters.card import AdapterCard
from components.backbones.spec import BackboneSpec
from components.report import plots, tables
from components.report.gallery import PageQuery
from components.report.results import AdapterResult, write_results
from components.report.tables import Row, Table
from components.tracking.record import Champion, Outcome, RegistryRecord


@dataclass(frozen=True)
class TaskContent:
    """What the page shows of a task besides its tables.

    Attributes:
        registry: The result of the register stage, None before that stage.
        queries: Test queries with answers. Empty if there is no gallery.
        searched: ``<method>-<seed>`` of the adapter that answered.
        no_queries: Why there are no queries.
    """

    registry: RegistryRecord | None = None
    queries: Sequence[PageQuery] = ()
    searched: str = ""
    no_queries: str = ""


@dataclass(frozen=True)
class Content:
    """Everything in the report.

    Attributes:
        results: One result per task, method and seed.
        missing: Names of the adapters that have not been evaluated.
        curves: Validation curves by task, method and seed.
        temporal: By method, whether the order of the frames can change its embedding.
        tasks: What is shown besides the tables, by task.
        backbones: The backbones of a task's adapters, in words, by task.
    """

    results: list[AdapterResult]
    missing: list[str]
    curves: dict[tuple[str, str, int], plots.Curve]
    temporal: dict[str, bool]
    tasks: dict[str, TaskContent]
    backbones: dict[str, list[str]]


def backbones_of(cards: Sequence[AdapterCard]) -> list[str]:
    """The different backbones of some adapters, such as ``ViT-B-32 at 224 pixels (151,277,313 parameters)``.

    Backbones of one name and different weights have the start of their hash too.
    """
    # The number of parameters is as the trainings counted it, 0 if no card has it.
    found: dict[BackboneSpec, int] = {}
    for card in cards:
        found[card.backbone] = max(found.get(card.backbone, 0), card.extra.parameters_total or 0)
    models = [spec.model for spec in found]
    return [
        f"{spec.model} at {spec.image_size} pixels"
        + (f" ({count:,} parameters)" if count else "")
        + (f", weights {spec.weights_sha256[:8]}" if models.count(spec.model) > 1 else "")
        for spec, count in found.items()
    ]


@dataclass(frozen=True)
class _Section:
    """The section of a task, as the template reads it."""

    name: str
    tables: list[Table]
    champion: Champion | None
    decisions: Sequence[Outcome]
    queries: Sequence[PageQuery]
    searched: str
    no_queries: str
    backbones: list[str]


def write(folder: Path, content: Content) -> None:
    """Writes results.json, metrics.json, table.md, index.html and plots/ into ``folder``."""
    results = content.results
    bars, curves = plots.recall_bars(results), plots.curves(content.curves)
    write_results(folder / "results.json", results)
    metrics = json.dumps(tables.mean_metrics(results), indent=1)
    storage.write_bytes(folder / "metrics.json", (metrics + "\n").encode())
    storage.write_bytes(folder / "table.md", tables.markdown_all(results).encode())
    storage.write_bytes(folder / "plots" / "recall.csv", _csv(tables.recall_rows(results)).encode())
    storage.write_bytes(folder / "plots" / "recall.png", plots.png(bars))
    storage.write_bytes(folder / "plots" / "curves.csv", _csv(plots.curve_rows(content.curves)).encode())
    storage.write_bytes(folder / "plots" / "curves.png", plots.png(curves))
    html = render(content, plots.data_uri(bars), plots.data_uri(curves))
    storage.write_bytes(folder / "index.html", html.encode())


def render(content: Content, bars: str, curves: str) -> str:
    """The page. It has no scripts and no links to other sites, and its pictures are inside.

    Args:
        content: The content of the report.
        bars: The plot of recalls, as a data URI.
        curves: The plot of validation curves, as a data URI.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
    )
    methods = list(dict.fromkeys(result.method for result in content.results))
    return environment.get_template("page.html").render(
        tasks=[_section(content, name) for name in tables.task_names(content.results)],
        count=len(content.results),
        missing=content.missing,
        backbones=list(dict.fromkeys(text for texts in content.backbones.values() for text in texts)),
        orderless=[name for name in methods if not content.temporal[name]],
        ordered=[name for name in methods if content.temporal[name]],
        bars=bars,
        curves=curves,
    )


def _section(content: Content, name: str) -> _Section:
    task = content.tasks.get(name, TaskContent())
    return _Section(
        name=name,
        tables=tables.tables_of(content.results, name),
        champion=task.registry.champion if task.registry else None,
        decisions=task.registry.decisions if task.registry else (),
        queries=task.queries,
        searched=task.searched,
        no_queries=task.no_queries,
        backbones=content.backbones[name],
    )


def _csv(rows: Sequence[Row]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]) if rows else ["name", "epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
