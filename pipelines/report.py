"""Scorecards to tables, plots and a page under reports/; --print shows the stored tables and where everything is."""

from __future__ import annotations

import argparse
import json

from components import cli
from components.errors import DataError
from components.report import collect, page, tables


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this stage."""
    parser.add_argument("--print", action="store_true", dest="show", help="only print what the last report found")


def body(stage: cli.Stage) -> None:
    """Scorecards, adapters, registry, indexes -> reports/."""
    if stage.args.show:
        show(stage)
        return
    folder = stage.layout.reports
    content = collect.collect(stage.root, stage.params)
    page.write(folder, content)
    for name in content.missing:
        print(f"not evaluated: {name}")
    print(f"report: {folder / 'index.html'}")


def show(stage: cli.Stage) -> None:
    """Prints the tables of the last report and where to look next."""
    folder = stage.layout.reports
    try:
        records = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no report yet", where=folder / "results.json", cure="dvc repro") from None
    print(tables.plain_all(records))
    task = tables.task_names(records)[0]
    print(f"\nreport    {folder / 'index.html'}")
    print("registry  make ui, then http://127.0.0.1:5000/#/models")
    print(f'search    python pipelines/search.py --task {task} "a red circle moves from left to right"')


if __name__ == "__main__":
    cli.main(body, __doc__, arguments)
