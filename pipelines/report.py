"""Scorecards to tables, plots and a page under reports/; --print shows the stored tables and where everything is."""

from __future__ import annotations

import argparse
import json

from components import cli
from components.errors import DataError
from components.report import tables


def arguments(parser: argparse.ArgumentParser) -> None:
    """The stage's own arguments."""
    parser.add_argument("--print", action="store_true", dest="show", help="only print what the last report found")


def body(stage: cli.Stage) -> None:
    """Scorecards, adapters, registry, indexes -> reports/."""
    folder = stage.path("reports")
    if not stage.args.show:
        from components.report import collect, page  # with torch and matplotlib, which printing does not need

        content = collect.collect(stage.root, stage.params)
        page.write(folder, content)
        for name in content.missing:
            print(f"not evaluated: {name}")
        print(f"report: {folder / 'index.html'}")
        return
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
