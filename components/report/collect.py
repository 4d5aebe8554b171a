"""Reads what the stages left under ``outputs/`` for the report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from components.adapters.card import read_card
from components.errors import DataError
from components.frames.store import FrameStore
from components.layout import Layout
from components.params import Params
from components.report import gallery, plots, tables
from components.report.page import Content, Extras
from components.search.index import read_index_card
from components.search.query import Searcher
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
        extras={task: _extras(root, params, task, done) for task in dict.fromkeys(key[0] for key in done)},
    )


def _backbone_parameters(folders: Iterable[Path]) -> int:
    """Scalars in the backbone, as the trainings counted them; 0 where no card says."""
    cards = [read_card(folder) for folder in folders]
    return max((card.extra.parameters_total or 0 for card in cards), default=0)


def _extras(root: Path, params: Params, task: str, done: list[tuple[str, str, int]]) -> Extras:
    path = Layout(root).champion_record(task)
    registry = read_registry_record(path) if path.exists() else None
    folder = Layout(root).index(task)
    try:
        index = read_index_card(folder)
    except DataError as error:
        return Extras(registry, no_queries=f"No queries are shown: {error}")
    searched, seed = f"{index['method']}-{index['seed']}", index["seed"]
    ranks = gallery.read_ranks(root, task, [f"{name}-{seed}" for its, name, own in done if (its, own) == (task, seed)])
    if index["split"] not in ("test", "all") or searched not in ranks:
        return Extras(registry, no_queries="No queries are shown: the index does not hold the test split's videos.")
    searcher = Searcher.from_folder(folder, root, params.backbone, params.search.top)
    store = FrameStore(Layout(root).frames(task))
    return Extras(registry, gallery.queries(searcher, store, ranks, searched), searched)
