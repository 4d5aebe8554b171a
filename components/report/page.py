"""The report's files: results, tables, plots and one self-contained page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from components import storage
from components.report import plots, tables
from components.report.gallery import Query
from components.tracking.record import RegistryRecord


@dataclass(frozen=True)
class Extras:
    """What the page shows of a task besides its metrics.

    Attributes:
        registry: The result of the register stage, None before that stage.
        queries: Test queries with answers. Without an index there are none.
        searched: The name of the adapter that answered.
        no_queries: Why there are no queries.
    """

    registry: RegistryRecord | None = None
    queries: Sequence[Query] = ()
    searched: str = ""
    no_queries: str = ""


@dataclass(frozen=True)
class Content:
    """Everything in the report.

    Attributes:
        records: One record per task, method and seed.
        missing: The adapters that have not been evaluated.
        curves: Validation curves by task, method and seed.
        backbone: The spec of the adapters' backbone.
        backbone_parameters: The number of scalars in the backbone.
        temporal: For each method, whether the order of the frames can change its embedding.
        extras: What else the page shows, by task.
    """

    records: list[tables.Record]
    missing: list[str]
    curves: dict[tuple[str, str, int], plots.Curve]
    backbone: dict[str, Any]
    backbone_parameters: int
    temporal: dict[str, bool]
    extras: dict[str, Extras]


def write(folder: Path, content: Content) -> None:
    """Writes results.json, metrics.json, table.md, index.html and plots/ into ``folder``."""
    records = content.records
    bars, curves = plots.recall_bars(records), plots.curves(content.curves)
    _write_json(folder / "results.json", records)
    _write_json(folder / "metrics.json", tables.metric_tree(records))
    storage.write_bytes(folder / "table.md", tables.markdown_all(records).encode())
    storage.write_bytes(folder / "plots" / "recall.csv", _csv(tables.recall_rows(records)).encode())
    storage.write_bytes(folder / "plots" / "recall.png", plots.png(bars))
    storage.write_bytes(folder / "plots" / "curves.csv", _csv(plots.curve_rows(content.curves)).encode())
    storage.write_bytes(folder / "plots" / "curves.png", plots.png(curves))
    html = render(content, plots.data_uri(bars), plots.data_uri(curves))
    storage.write_bytes(folder / "index.html", html.encode())


def render(content: Content, bars: str, curves: str) -> str:
    """The page. It has no scripts and no links to other places, and it contains its pictures.

    Args:
        content: The content of the report.
        bars, curves: The plots as data URIs.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
    )
    methods = list(dict.fromkeys(record["method"] for record in content.records))
    return environment.get_template("page.html").render(
        tasks=[_task(content, name) for name in tables.task_names(content.records)],
        count=len(content.records),
        missing=content.missing,
        backbone=content.backbone,
        backbone_parameters=content.backbone_parameters,
        orderless=[name for name in methods if not content.temporal[name]],
        ordered=[name for name in methods if content.temporal[name]],
        bars=bars,
        curves=curves,
    )


def _task(content: Content, name: str) -> dict[str, Any]:
    extras = content.extras.get(name, Extras())
    return {
        "name": name,
        "tables": tables.tables_of(content.records, name),
        "champion": extras.registry.champion if extras.registry else None,
        "decisions": extras.registry.decisions if extras.registry else (),
        "queries": extras.queries,
        "searched": extras.searched,
        "no_queries": extras.no_queries,
    }


def _write_json(path: Path, content: object) -> None:
    storage.write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def _csv(rows: Sequence[tables.Record]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]) if rows else ["name", "epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
