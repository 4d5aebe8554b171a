"""Questions in, ranked videos out.

Example::

    from components.search.query import Searcher

    searcher = Searcher.open(".", "shapes-clips")
    for hit in searcher.search("a red circle moves from left to right", top=3):
        print(hit.rank, hit.score, hit.video_id, hit.start_seconds, hit.end_seconds, hit.uri)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.adapters.card import read_card
from components.adapters.file import load_adapter
from components.backbones.settings import BackboneSettings
from components.errors import DataError, ReelTuneError
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.base import Method
from components.moments import narrow
from components.params import Params, load_params
from components.search import index as indexes
from components.search.asking import Asking, Collection
from components.search.backbones import adapter_backbone, shared_backbone
from components.search.card import read_index_card
from components.search.cutoff import CutOff, Level, background_rows, read_cutoff
from components.search.filters import rows_where
from components.search.hits import Answer, Hit
from components.search.index import Index
from components.search.notes import check_index, store_difference
from components.search.opened import TRIES
from components.search.question import Question
from components.search.ranking import Ranked, Ranking
from components.search.settings import SearchSettings
from components.search.words import kept_words

logger = logging.getLogger(__name__)

PLAIN = SearchSettings(split="auto", top=10)


class Searcher:
    """Answers questions on one collection. The searchers of several collections share one backbone in memory.

    Args:
        method: The backbone with the adapter. Its video side is used for pictures and videos alone.
        index: Vectors that were made with the same adapter.
        top: The default number of hits.
        settings: Further defaults of answers.
        cutoff: The cut-off of "nothing found", None if there is none.
        collection: Where the videos come from. Without it, only sentences and videos of the index can be asked.
    """

    def __init__(
        self,
        method: Method,
        index: Index,
        top: int = 10,
        *,
        settings: SearchSettings = PLAIN,
        cutoff: CutOff | None = None,
        collection: Collection | None = None,
    ) -> None:
        self.method = method.eval()
        self.index = index
        self.top = top
        self.settings = settings
        self._asking = Asking(self.method, index, collection)
        self._ranking = Ranking(index, self._asking.device, settings.max_overlap)
        self._background = index.vectors_of(background_rows(index.count))
        self._height = None if cutoff is None else cutoff.limit(settings.false_alarms)

    @classmethod
    def open(cls, root: str | Path, task: str) -> Searcher:
        """Open the index of a task.

        Args:
            root: The folder of params.yaml.
            task: Key of the task in params.yaml.

        Raises:
            ConfigError: params.yaml has no such task.
            DataError: The task has no index, or its frame store has changed since the index was made.
            BackboneError: The task's backbone cannot be loaded.
            AdapterError: The index was made with another backbone, which cannot be loaded.
        """
        folder = Path(root).resolve()
        return cls.of(folder, load_params(Layout(folder).params), task)

    @classmethod
    def of(cls, root: Path, params: Params, task: str) -> Searcher:
        """Open the index of a task, with settings that are read already.

        An index of an earlier champion is used, with a warning in the log. So is one of another backbone than the
        task's, if that backbone can still be loaded.

        Args:
            root: The project's folder, absolute.
            params: The settings.
            task: Key of the task in params.yaml.

        Raises:
            ConfigError: params.yaml has no such task.
            DataError: The task has no index, or its frame store has changed since the index was made.
            BackboneError: The task's backbone cannot be loaded.
            AdapterError: The index was made with another backbone, which cannot be loaded.
        """
        params.task(task)
        layout = Layout(root)
        folder = layout.index(task)
        card = read_index_card(folder)
        notes = check_index(card, layout, params.tracking)  # before the backbone is loaded
        index, method, elsewhere = _opened(folder, params, task, root)
        if index.card != card:
            notes = check_index(index.card, layout, params.tracking)
        for line in filter(None, [*notes, elsewhere]):
            logger.warning("%s", line)
        return cls(
            method,
            index,
            params.search.top,
            settings=params.search,
            cutoff=read_cutoff(folder, index.card.adapter_sha256, index.count),
            collection=Collection(root, layout.frames(task)),
        )

    def search(
        self,
        question: str | Question,
        top: int | None = None,
        *,
        where: str | None = None,
        near_duplicates: float | None = None,
    ) -> list[Hit]:
        """The best videos for a question. Videos with equal scores keep the order of the collection.

        Args:
            question: A sentence, or a question of several parts.
            top: How many, of those that the condition leaves.
            where: A condition on the videos, see :mod:`components.search.filters`.
            near_duplicates: The cosine from which on a video is folded into a better one. None means the setting.

        Returns:
            The hits, fewer than ``top`` where there are fewer. Those below the cut-off are marked.

        Raises:
            ReelTuneError: The question is empty, ``top`` is below 1, or the condition is none.
            DataError: A picture or video cannot be read, or the index has no video of this id.
        """
        return self.search_many([question], top, where=where, near_duplicates=near_duplicates)[0]

    def search_many(
        self,
        questions: Sequence[str | Question],
        top: int | None = None,
        *,
        where: str | None = None,
        near_duplicates: float | None = None,
    ) -> list[list[Hit]]:
        """The best videos for each question, as :meth:`search` finds them.

        Raises:
            ReelTuneError: As :meth:`search`.
        """
        answers = self.answer(questions, top, where=where, near_duplicates=near_duplicates)
        return [list(answer.hits) for answer in answers]

    @torch.inference_mode()
    def answer(
        self,
        questions: Sequence[str | Question],
        top: int | None = None,
        *,
        where: str | None = None,
        near_duplicates: float | None = None,
    ) -> list[Answer]:
        """The best videos for each question with notes for people.

        Raises:
            ReelTuneError: As :meth:`search`.
        """
        top = self.top if top is None else top
        if top < 1:
            raise ReelTuneError("too few results", where="top", found=top, expected="at least 1")
        asked = [_question(question, number) for number, question in enumerate(questions, 1)]
        if not asked:
            return []
        if not self.index.count:
            return [Answer(str(question), (), ("nothing found: the index has no videos",)) for question in asked]
        queries = self._asking.vectors(asked)
        left = None if where is None else rows_where(where, self.index.table())
        masks = [_without(left, self._asking.rows_alike(question), self.index.count) for question in asked]
        limit = self.settings.near_duplicates if near_duplicates is None else near_duplicates
        found = self._ranking.best(queries, top, masks, limit)
        table = self.index.table()
        return [
            self._answer(question, query, ranked, table, where, left)
            for question, query, ranked in zip(asked, queries, found, strict=True)
        ]

    def kept_words(self, text: str) -> tuple[int, int]:
        """How many words of the text fit into the task's tokens, and how many words it has. The rest is ignored."""
        return kept_words(self.method, text)

    def _answer(
        self,
        question: Question,
        query: Tensor,
        ranked: Sequence[Ranked],
        table: pa.Table,
        where: str | None,
        left: NDArray[np.bool_] | None,
    ) -> Answer:
        """The hits of one question, with spans, percentiles and the cut-off."""
        vector = query.float().cpu().numpy()
        level = Level.of(self._background @ vector)
        limit = level.score_at(self._height) if self._height is not None and question.is_sentence else None
        hits = []
        for rank, (found, row) in enumerate(zip(ranked, _rows(table, [one.row for one in ranked]), strict=True), 1):
            start, end = self._narrowed(found.row, row, vector)
            hits.append(
                Hit(
                    rank=rank,
                    video_id=row["video_id"],
                    score=found.score,
                    start_seconds=start,
                    end_seconds=end,
                    uri=row["uri"],
                    thumbnail=self.index.thumbnail(found.row),
                    window_of=row["window_of"],
                    percentile=level.percentile(found.score),
                    below_cutoff=None if limit is None else found.score <= limit,
                    folded=tuple(other["video_id"] for other in _rows(table, found.folded)),
                )
            )
        notes = []
        if left is not None and not left.any():
            notes.append(f"nothing found: no video meets the condition {where}")
        elif limit is not None and hits and hits[0].below_cutoff:
            notes.append(
                f"nothing found: best score {hits[0].score:.3f} is below {limit:.3f}, this question's cut-off "
                f"for {self.settings.false_alarms:.1%} false alarms"
            )
        return Answer(str(question), hits, notes)

    def _narrowed(self, row: int, known: dict[str, Any], query: NDArray[np.float32]) -> tuple[float, float]:
        """The span of a row, narrowed to its frames where their vectors are kept. Above average means in its file."""
        span = known["start_seconds"], known["end_seconds"]
        kept = self.index.frames(row)
        if kept is None:
            return span
        times, vectors = kept
        level = None
        if known["window_of"] is not None:
            others = (self.index.frames(int(other)) for other in self._asking.rows_of(known["window_of"]))
            level = float(np.concatenate([frames[1] @ query for frames in others if frames is not None]).mean())
        return narrow(times, (vectors @ query).astype(np.float64), span, level)


def from_adapter(
    adapter: Path, root: Path, task: str, backbone: BackboneSettings, *, split: str, top: int, batch_size: int
) -> tuple[Searcher, str | None]:
    """A searcher for any adapter of a task, which may be another one than that of the index.

    If the task has no index of this adapter and of the current frame store, the videos are embedded now. Further
    settings of search are those of the project's params.yaml, as long as it has one.

    Args:
        adapter: The adapter's folder.
        root: The project's folder.
        task: Key of the task in params.yaml.
        backbone: The backbone that the adapter was trained with.
        split: The videos to embed if there is no index.
        top: The default number of hits.
        batch_size: Videos per forward pass.

    Returns:
        The searcher, and why the index was not used, None if it was.

    Raises:
        ConfigError: params.yaml has a fault.
        DataError: There is no usable index and no frame store.
        AdapterError: The adapter was trained with another backbone.
    """
    layout, sha256 = Layout(root), read_card(adapter).sha256
    settings = load_params(layout.params).search if layout.params.is_file() else PLAIN
    method = load_adapter(adapter, shared_backbone(backbone, root))
    collection = Collection(root, layout.frames(task))
    try:
        folder = layout.index(task)
        index = indexes.read(folder)
        reason = "the task's index was made with another" if index.card.adapter_sha256 != sha256 else None
        reason = reason or store_difference(index.card, layout)
        if reason is None:
            cutoff = read_cutoff(folder, sha256, index.count)
            return Searcher(method, index, top, settings=settings, cutoff=cutoff, collection=collection), None
    except DataError as error:
        reason = str(error)
    store = FrameStore(layout.frames(task))
    index = indexes.build(method, store, split=split, adapter_sha256=sha256, batch_size=batch_size)
    return Searcher(method, index, top, settings=settings, collection=collection), reason


def _opened(folder: Path, params: Params, task: str, root: Path) -> tuple[Index, Method, str]:
    """An index, the method with its adapter, and a note about its backbone.

    Raises:
        DataError: As :func:`components.search.index.read`, or the index was replaced again and again.
    """
    for _ in range(TRIES):
        index = indexes.read(folder)
        backbone, note = adapter_backbone(folder, params, task, root)
        method = load_adapter(folder, backbone)
        # Loading takes seconds, in which a new version may come with another adapter.
        if read_card(folder).sha256 == index.card.adapter_sha256:
            return index, method, note
    raise DataError("the index was replaced while it was opened", where=folder, cure="search again")


def _question(given: str | Question, number: int) -> Question:
    """A sentence as a question.

    Raises:
        ReelTuneError: The sentence is empty.
    """
    if isinstance(given, Question):
        return given
    if not given.strip():
        raise ReelTuneError("the text is empty", where=f"text {number}", expected="words to search for")
    return Question.of_text(given)


def _without(left: NDArray[np.bool_] | None, gone: NDArray[np.int64], count: int) -> NDArray[np.bool_] | None:
    """The rows that may answer, ``bool[N]``, None for all."""
    if not len(gone):
        return left
    mask = np.ones(count, dtype=bool) if left is None else left.copy()
    mask[gone] = False
    return mask


def _rows(table: pa.Table, rows: Sequence[int]) -> list[dict[str, Any]]:
    """What a table says of some rows."""
    found: list[dict[str, Any]] = table.take(pa.array(rows, pa.int64())).to_pylist()
    return found
