"""Scorecards to tables, plots and a page under reports/; --print shows the stored tables and where everything is."""

from __future__ import annotations

import argparse

import _here  # noqa: F401

from components import cli
from components.report import collect, page, tables
from components.report.results import read_results


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
    results = read_results(folder / "results.json")
    print(tables.plain_all(results))
    task = tables.task_names(results)[0]
    print(f"\nreport    {folder / 'index.html'}")
    print("registry  make ui, then http://127.0.0.1:5000/#/models")
    print(f'search    python pipelines/search.py --task {task} "a red circle moves from left to right"')


if __name__ == "__main__":
    cli.main(body, __doc__, arguments)
