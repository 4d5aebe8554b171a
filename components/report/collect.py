"""Reads what the stages left under ``outputs/`` for the report. It loads neither torch nor a model."""

from __future__ import annotations

from pathlib import Path

from components.adapters.card import read_card
from components.adapters.record import CURVE
from components.errors import DataError
from components.evaluation.card import text_ranks
from components.layout import Layout
from components.params import Params
from components.report import plots
from components.report.gallery import make_queries
from components.report.page import Content, TaskContent, backbones_of
from components.report.results import collect_results
from components.search.card import read_gallery, read_index_card
from components.tracking.record import read_registry_record


def collect(root: Path, params: Params) -> Content:
    """The content of the report on every task, method and seed of params.yaml.

    Args:
        root: The project's folder.
        params: The settings. Their tasks, methods and seeds give the order of the tables.

    Raises:
        DataError: Nothing has been evaluated, or a file is damaged.
        ReelTuneError: A card is missing or damaged.
    """
    layout, run = Layout(root), params.run
    wanted = [(task, method, seed) for task in run.tasks for method in run.methods for seed in run.seeds]
    results, missing = collect_results(root, wanted)
    done = [(result.task, result.method, result.seed) for result in results]
    cards = {key: read_card(layout.adapter(*key)) for key in done}
    adapters: dict[str, list[tuple[str, int]]] = {}
    for task, method, seed in done:
        adapters.setdefault(task, []).append((method, seed))
    return Content(
        results=results,
        missing=missing,
        curves={key: plots.read_curve(layout.adapter(*key) / CURVE) for key in done},
        temporal={method: card.temporal for (_, method, _), card in cards.items()},
        tasks={task: _task(layout, task, trained) for task, trained in adapters.items()},
        backbones={task: backbones_of([card for key, card in cards.items() if key[0] == task]) for task in adapters},
    )


def _task(layout: Layout, task: str, adapters: list[tuple[str, int]]) -> TaskContent:
    path, folder = layout.champion_record(task), layout.index(task)
    registry = read_registry_record(path) if path.exists() else None
    try:
        card = read_index_card(folder)
        shown = read_gallery(folder) if card.split in ("test", "all") else None
    except DataError as error:
        return TaskContent(registry, no_queries=f"No queries are shown: {error}")
    searched = f"{card.method}-{card.seed}"
    ranks = {
        f"{method}-{seed}": text_ranks(layout.scorecards(task, method, seed), "test")
        for method, seed in adapters
        if seed == card.seed
    }
    if shown is None or searched not in ranks:
        return TaskContent(
            registry, no_queries="No queries are shown: the index does not hold the test split's videos."
        )
    return TaskContent(registry, make_queries(shown, ranks), searched)
