"""Writes tables, plots and a page under reports/. --print shows the stored tables and where everything is."""

from __future__ import annotations

import argparse

from components import cli
from components.report import tables
from components.report.results import read_results


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this stage."""
    parser.add_argument("--print", action="store_true", dest="show", help="only print the results of the last report")


def body(stage: cli.Stage) -> None:
    """From scorecards, adapters, registry and indexes to reports/."""
    folder = stage.layout.reports
    if not stage.args.show:
        from components.report import collect, page  # with matplotlib, which printing does not need

        content = collect.collect(stage.root, stage.params)
        page.write(folder, content)
        for name in content.missing:
            print(f"not evaluated: {name}")
        print(f"report: {folder / 'index.html'}")
        return
    results = read_results(folder / "results.json")
    print(tables.plain_all(results))
    task = tables.task_names(results)[0]
    print(f"\nreport    {folder / 'index.html'}")
    print("registry  make ui, then http://127.0.0.1:5000/#/models")
    print(f'search    python pipelines/search.py --task {task} "a red circle moves from left to right"')


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
