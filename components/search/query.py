"""Text in, ranked videos out.

Example::

    from components.search.query import Searcher

    searcher = Searcher.open(".", "shapes-clips")
    for hit in searcher.search("a red circle moves from left to right", top=3):
        print(hit.rank, hit.score, hit.video_id, hit.start_seconds, hit.end_seconds, hit.uri)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from components.adapters.card import read_card
from components.adapters.file import load_adapter
from components.backbones.settings import BackboneSettings
from components.errors import DataError, ReelTuneError
from components.frames.store import FrameStore
from components.layout import Layout
from components.methods.base import Method
from components.params import Params, load_params
from components.search import index as indexes
from components.search.backbones import adapter_backbone, shared_backbone
from components.search.card import read_index_card
from components.search.index import Index
from components.search.notes import check_index, store_difference

logger = logging.getLogger(__name__)

# A text whose first words fill the tokens in another way than the whole text does: the clean-up before the tokens looks
# at the whole. After so many beginnings the count is an estimate. Trying all of them would take quadratic time.
FULL_BEGINNINGS = 8


@dataclass(frozen=True, repr=False)
class Hit:
    """One answer.

    Attributes:
        rank: The position in the list, from 1.
        video_id: The video's id in the collection.
        score: The cosine of text and video, from -1 to 1, rounded to six decimals.
        start_seconds: Where the video starts in its file.
        end_seconds: Where the video ends in its file.
        uri: The file's path or URI. A path under the project's root is relative to it.
        thumbnail: JPEG bytes of the middle frame.
    """

    rank: int
    video_id: str
    score: float
    start_seconds: float
    end_seconds: float
    uri: str
    thumbnail: bytes

    @property
    def span(self) -> str:
        """Start and end, as in ``00:01.5-00:04.0``."""
        return f"{clock(self.start_seconds)}-{clock(self.end_seconds)}"

    def __repr__(self) -> str:
        return f"Hit({self.rank}, {self.score:.3f}, {self.span}, {self.video_id!r}, {self.uri!r})"


class Searcher:
    """Answers queries on one collection. The searchers of several collections share one backbone in memory.

    Args:
        method: The backbone with the adapter, of which only the text side is used.
        index: Vectors that were made with the same adapter.
        top: The default number of hits.
    """

    def __init__(self, method: Method, index: Index, top: int = 10) -> None:
        self.method = method.eval()
        self.index = index
        self.top = top
        self._device = next(method.parameters()).device
        self._vectors = index.searched(self._device)

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
        for note in check_index(read_index_card(folder), layout, params.tracking):
            logger.warning("%s", note)
        index = indexes.read(folder)
        backbone, note = adapter_backbone(folder, params, task, root)
        if note:
            logger.warning("%s", note)
        return cls(load_adapter(folder, backbone), index, params.search.top)

    @torch.inference_mode()
    def search(self, text: str, top: int | None = None) -> list[Hit]:
        """The best videos for ``text``. Videos with equal scores keep the order of the collection.

        Raises:
            ReelTuneError: The text is empty, or ``top`` is below 1.
        """
        return self.search_many([text], top)[0]

    @torch.inference_mode()
    def search_many(self, texts: Sequence[str], top: int | None = None) -> list[list[Hit]]:
        """The best videos for each text.

        Raises:
            ReelTuneError: A text is empty, or ``top`` is below 1.
        """
        top = self.top if top is None else top
        if top < 1:
            raise ReelTuneError("too few results", where="top", found=top, expected="at least 1")
        for number, text in enumerate(texts, 1):
            if not text.strip():
                raise ReelTuneError("the text is empty", where=f"text {number}", expected="words to search for")
        if not texts:
            return []
        tokens = self.method.backbone.tokenize(list(texts), self.method.words)
        queries = self.method.encode_text(tokens.to(self._device))
        return [self._hits(best) for best in self._vectors.best(queries, top)]

    def kept_words(self, text: str) -> tuple[int, int]:
        """How many words of the text fit into the task's tokens, and how many words it has. The rest is ignored."""
        words = text.split()
        whole = self._tokens(text)
        if not words or int(whole[-1]) == 0:  # padding: nothing was cut
            return len(words), len(words)
        full = 0
        for count in range(1, len(words)):
            tokens = self._tokens(" ".join(words[:count]))
            if torch.equal(tokens, whole):
                return count, len(words)
            full += int(tokens[-1]) != 0
            if full == FULL_BEGINNINGS:
                return max(1, count - full), len(words)
        return max(1, len(words) - 1 - full) if full else len(words), len(words)

    def _tokens(self, text: str) -> torch.Tensor:
        return self.method.backbone.tokenize([text], self.method.words)[0]

    def _hits(self, best: Sequence[tuple[int, float]]) -> list[Hit]:
        return [self._hit(rank, row, score) for rank, (row, score) in enumerate(best, 1)]

    def _hit(self, rank: int, row: int, score: float) -> Hit:
        known = self.index.table().slice(row, 1).to_pylist()[0]
        shown = {name: known[name] for name in ("video_id", "start_seconds", "end_seconds", "uri")}
        return Hit(rank=rank, score=score, thumbnail=self.index.thumbnail(row), **shown)


def from_adapter(
    adapter: Path, root: Path, task: str, backbone: BackboneSettings, *, split: str, top: int, batch_size: int
) -> tuple[Searcher, str | None]:
    """A searcher for any adapter of a task, which may be another one than that of the index.

    If the task has no index of this adapter and of the current frame store, the videos are embedded now.

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
        DataError: There is no usable index and no frame store.
        AdapterError: The adapter was trained with another backbone.
    """
    layout, sha256 = Layout(root), read_card(adapter).sha256
    method = load_adapter(adapter, shared_backbone(backbone, root))
    try:
        card = read_index_card(layout.index(task))
        reason = "the task's index was made with another" if card.adapter_sha256 != sha256 else None
        reason = reason or store_difference(card, layout)
        if reason is None:
            return Searcher(method, indexes.read(layout.index(task)), top), None
    except DataError as error:
        reason = str(error)
    store = FrameStore(layout.frames(task))
    index = indexes.build(method, store, split=split, adapter_sha256=sha256, batch_size=batch_size)
    return Searcher(method, index, top), reason


def format_hits(hits: Sequence[Hit]) -> str:
    """Hits as an aligned table."""
    head = ("rank", "score", "span", "video", "file")
    rows = [(str(hit.rank), f"{hit.score:.3f}", hit.span, hit.video_id, hit.uri) for hit in hits]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [row[0].rjust(widths[0]), row[1].rjust(widths[1])]
        cells += [text.ljust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """``mm:ss.s``, or ``h:mm:ss.s`` from one hour on."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes:02d}:{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{text}" if hours else text
