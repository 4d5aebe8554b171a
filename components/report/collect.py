"""Reads what the stages left under ``outputs/`` for the report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from components.adapters.card import read_card
from components.errors import DataError
from components.layout import Layout
from components.params import Params
from components.report import gallery, plots, tables
from components.report.page import Content, Extras
from components.search.card import read_gallery, read_index_card
from components.tracking.record import read_registry_record


def collect(root: Path, params: Params) -> Content:
    """The content of the report on every task, method and seed of params.yaml.

    Args:
        root: the project's folder.
        params: settings; tasks, methods and seeds give the order of the tables.

    Raises:
        DataError: nothing has been evaluated, or a file is damaged.
    """
    wanted = [
        (task, method, seed) for task in params.run.tasks for method in params.run.methods for seed in params.run.seeds
    ]
    records, missing = tables.read_records(root, wanted)
    done = [(record["task"], record["method"], record["seed"]) for record in records]
    folders = {key: Layout(root).adapter(*key) for key in done}
    card = read_card(folders[done[0]])
    return Content(
        records=records,
        missing=missing,
        curves={key: plots.read_curve(folder / "curves.csv") for key, folder in folders.items()},
        backbone=card.backbone.to_dict(),
        backbone_parameters=_backbone_parameters(folders.values()),
        temporal={key[1]: read_card(folder).temporal for key, folder in folders.items()},
        extras={task: _extras(root, task, done) for task in dict.fromkeys(key[0] for key in done)},
    )


def _backbone_parameters(folders: Iterable[Path]) -> int:
    """Scalars in the backbone, as the trainings counted them; 0 where no card says."""
    cards = [read_card(folder) for folder in folders]
    return max((card.extra.parameters_total or 0 for card in cards), default=0)


def _extras(root: Path, task: str, done: list[tuple[str, str, int]]) -> Extras:
    layout = Layout(root)
    path = layout.champion_record(task)
    registry = read_registry_record(path) if path.exists() else None
    folder = layout.index(task)
    try:
        card = read_index_card(folder)
        shown = read_gallery(folder) if card.split in ("test", "all") else None
    except DataError as error:
        return Extras(registry, no_queries=f"No queries are shown: {error}")
    searched = f"{card.method}-{card.seed}"
    scorecards = {
        f"{method}-{seed}": layout.scorecards(name, method, seed)
        for name, method, seed in done
        if (name, seed) == (task, card.seed)
    }
    ranks = gallery.read_ranks(scorecards)
    if shown is None or searched not in ranks:
        return Extras(registry, no_queries="No queries are shown: the index does not hold the test split's videos.")
    return Extras(registry, gallery.make_queries(shown, ranks), searched)
