"""The model file that MLflow copies into each registered version and runs to load it (models from code).

A version holds an adapter only. Backbone, index and frame store are found under the project's root: the one named by
``REELTUNE_ROOT``, else the one that registered the version.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pandas as pd

from components.backbones.settings import BackboneSettings
from components.errors import RegistryError
from components.search.query import Searcher, from_adapter
from components.tracking.model import PythonModel, set_model

logger = logging.getLogger("reeltune")

COLUMNS = ["text", "rank", "video_id", "score", "start_seconds", "end_seconds", "uri"]


class RankingModel(PythonModel):
    """Texts in; for each, the best videos of the task's collection."""

    def load_context(self, context: Any) -> None:
        """Remembers where adapter and project are; the backbone is loaded by the first prediction."""
        self.adapter = Path(context.artifacts["adapter"])
        self.settings = dict(context.model_config)
        self.searcher: Searcher | None = None

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Ranks videos.

        Args:
            context: unused.
            model_input: one column of texts, called ``text`` or without a name (MLflow makes one of a list).
            params: ``top``, videos per text.

        Returns:
            A row per text and video: text, rank, video_id, score, start_seconds, end_seconds, uri.

        Raises:
            RegistryError: another column came first, or the project's root is gone.
            ReelTuneError: a text is empty.
            DataError: neither index nor frame store is under the root.
        """
        column = model_input.columns[0]
        if column not in ("text", 0):
            raise RegistryError("wrong input column", where="predict", found=column, expected="`text`")
        texts = [str(text) for text in model_input[column]]
        self.searcher = self.searcher or self._open()
        found = self.searcher.search_many(texts, (params or {}).get("top"))
        rows = [
            (text, hit.rank, hit.video_id, hit.score, hit.start_seconds, hit.end_seconds, hit.uri)
            for text, hits in zip(texts, found, strict=True)
            for hit in hits
        ]
        return pd.DataFrame(rows, columns=COLUMNS)

    def _open(self) -> Searcher:
        settings = self.settings
        root = Path(os.environ.get("REELTUNE_ROOT") or settings["root"])
        if not root.is_dir():
            raise RegistryError(
                "the project's folder is gone",
                where="REELTUNE_ROOT or the registered root",
                found=str(root),
                expected="the folder with params.yaml and outputs/",
                cure="set REELTUNE_ROOT",
            )
        searcher, ready = from_adapter(
            self.adapter,
            root,
            settings["task"],
            BackboneSettings(**settings["backbone"]),
            split=settings["split"],
            top=settings["top"],
            batch_size=settings["batch_size"],
        )
        if not ready:
            logger.warning("no index of this adapter; embedded %d videos instead", len(searcher.index.rows))
        return searcher


set_model(RankingModel())
