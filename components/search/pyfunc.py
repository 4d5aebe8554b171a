"""The model file that MLflow copies into each registered version and runs to load it (models from code).

A version contains an adapter only. Backbone, index and frame store are under the project's root: the folder in
``REELTUNE_ROOT`` if that is set, else the project that the version's files are in, else the folder that registered it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pandas as pd

from components import config
from components.backbones.naming import errors_under
from components.errors import RegistryError
from components.layout import Layout
from components.search.notes import files_of
from components.search.query import Searcher, from_adapter
from components.search.question import Part, Question
from components.tracking.model import ModelConfig, PythonModel, PythonModelContext, set_model

logger = logging.getLogger("reeltune")

COLUMNS = ["text", "rank", "video_id", "score", "start_seconds", "end_seconds", "uri", "below_cutoff"]


class RankingModel(PythonModel):
    """Ranks the videos of a task's collection for texts."""

    def load_context(self, context: PythonModelContext) -> None:
        """Keep the places of adapter and project. The first prediction loads the backbone.

        Raises:
            ConfigError: The version was registered by a release with other settings.
        """
        self.adapter = Path(context.artifacts["adapter"])
        self.config = config.check(ModelConfig, dict(context.model_config), "model_config of the version")
        self.searcher: Searcher | None = None
        self.opened: object = None

    def predict(
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Rank the videos for each text.

        Args:
            context: Not used.
            model_input: One column of texts, called ``text`` or without a name, as MLflow makes it from a list.
            params: ``top``, the number of videos per text. ``where``, a condition on the videos as search.py takes it.
                ``minus``, a text that is subtracted from each. Both may be empty. ``all``, whether videos below the
                cut-off of "nothing found" are given too.

        Returns:
            A row per text and video: text, rank, video_id, score, start_seconds, end_seconds, uri, below_cutoff. The
            last one is None where there is no cut-off. A text without an answer has no row.

        Raises:
            RegistryError: The first column has another name, a cell is empty, or the project's root does not exist.
            ReelTuneError: A text is empty, or the condition is none.
            DataError: There is neither an index nor a frame store under the root.
        """
        texts, given = _texts(model_input), params or {}
        # MLflow fills in the defaults of the version's signature. One of an earlier release does not have `all`, and
        # could not ask for what is left out.
        everything = given.get("all", True)
        asked: list[str | Question] = list(texts)
        if minus := given.get("minus"):
            asked = [Question((Part("text", text), Part("text", minus, -1.0))) for text in texts]
        found = self._current().search_many(asked, given.get("top"), where=given.get("where") or None)
        rows = [
            (text, *(getattr(hit, name) for name in COLUMNS[1:]))
            for text, hits in zip(texts, found, strict=True)
            for hit in hits
            if everything or not hit.below_cutoff
        ]
        return pd.DataFrame(rows, columns=COLUMNS)

    def _current(self) -> Searcher:
        """A searcher of the index and frame store as they are now. A model may be loaded for months."""
        root = self._root()
        files = files_of(Layout(root), self.config.task)
        if self.searcher is None or files != self.opened:
            self.searcher, self.opened = self._open(root), files
        return self.searcher

    def _root(self) -> Path:
        around = (folder for folder in self.adapter.parents if _is_project_of(self.adapter, Layout(folder)))
        root = Path(os.environ.get("REELTUNE_ROOT") or next(around, self.config.root))
        if not root.is_dir():
            raise RegistryError(
                "the project's folder does not exist",
                where="REELTUNE_ROOT or the registered root",
                found=str(root),
                expected="the folder with params.yaml and outputs/",
                cure="set REELTUNE_ROOT",
            )
        return root

    def _open(self, root: Path) -> Searcher:
        with errors_under("model_config of the version, backbone"):
            searcher, reason = from_adapter(
                self.adapter,
                root,
                self.config.task,
                self.config.backbone,
                split=self.config.split,
                top=self.config.top,
                batch_size=self.config.batch_size,
            )
        if reason is not None:
            videos = searcher.index.count
            logger.warning("no index of this adapter (%s); embedded %d videos instead", reason, videos)
        return searcher


def _is_project_of(file: Path, layout: Layout) -> bool:
    """Whether a file is in the MLflow folder of a project. A project that was moved or copied finds itself so."""
    return file.is_relative_to(layout.tracking_artifacts) and layout.params.is_file()


def _texts(table: pd.DataFrame) -> list[str]:
    """The texts in the first column."""
    column = table.columns[0]
    if column not in ("text", 0):
        raise RegistryError("wrong input column", where="predict", found=column, expected="`text`")
    for number, cell in enumerate(table[column], 1):
        if not isinstance(cell, str):
            raise RegistryError(
                "not a text", where=f"predict, row {number}", found=cell, expected="words to search for"
            )
    return list(table[column])


set_model(RankingModel())
