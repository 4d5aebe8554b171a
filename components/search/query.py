"""A text in, ranked videos out.

from components.search.query import Searcher

searcher = Searcher.open(".", "shapes-clips")
for hit in searcher.search("a red circle moves from left to right", top=3):
    print(hit.rank, hit.score, hit.video_id, hit.start_seconds, hit.end_seconds, hit.uri)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from components.adapters.file import load_adapter
from components.backbones.clip import Backbone, load_backbone
from components.backbones.settings import BackboneSettings
from components.errors import DataError, ReelTuneError
from components.layout import Layout
from components.methods.base import Method
from components.params import load_params
from components.search import index as indexes
from components.search.index import Index

# Above float32 noise, below any difference that means something.
SCORE_DECIMALS = 6


@dataclass(frozen=True)
class Hit:
    """One answer.

    Attributes:
        rank: from 1.
        video_id: id in the collection.
        score: cosine of text and video, -1 to 1, to six decimals.
        start_seconds, end_seconds: the part of the file that is the video.
        uri: path (relative to the project's root where it lies under it) or URI of the file.
        thumbnail: JPEG bytes of the middle frame.
    """

    rank: int
    video_id: str
    score: float
    start_seconds: float
    end_seconds: float
    uri: str
    thumbnail: bytes


class Searcher:
    """Answers for one collection. Searchers of several collections share one backbone in memory.

    Args:
        method: backbone and adapter; only its text side is used.
        index: vectors made with the same adapter.
        top: default number of hits.
    """

    def __init__(self, method: Method, index: Index, top: int = 10) -> None:
        self.method = method.eval()
        self.index = index
        self.top = top

    @classmethod
    def open(cls, root: str | Path, task: str) -> Searcher:
        """The searcher of a task, from the index under ``root``.

        Args:
            root: folder of params.yaml.
            task: key of the task in params.yaml.

        Raises:
            ConfigError: no such task.
            DataError: the task has no index.
            AdapterError: the index was made on another backbone.
        """
        folder = Path(root).resolve()
        params = load_params(folder / "params.yaml")
        params.task(task)
        return cls.from_folder(Layout(folder).index(task), folder, params.backbone, params.search.top)

    @classmethod
    def from_folder(cls, folder: Path, root: Path, backbone: BackboneSettings, top: int) -> Searcher:
        """The searcher of an index folder.

        Args:
            folder: as :func:`components.search.index.write` left it.
            root: folder that relative weights start from.
            backbone: the backbone to load, or to share where it is loaded already.
            top: default number of hits.
        """
        index = indexes.read(folder)
        return cls(load_adapter(folder, shared_backbone(backbone, root)), index, top)

    @torch.inference_mode()
    def search(self, text: str, top: int | None = None) -> list[Hit]:
        """The best videos for ``text``; equal scores keep the order of the collection.

        Raises:
            ReelTuneError: the text is empty, or ``top`` is below 1.
        """
        return self.search_many([text], top)[0]

    @torch.inference_mode()
    def search_many(self, texts: Sequence[str], top: int | None = None) -> list[list[Hit]]:
        """The best videos for each text.

        Raises:
            ReelTuneError: a text is empty, or ``top`` is below 1.
        """
        top = self.top if top is None else top
        if top < 1:
            raise ReelTuneError("too few results asked for", where="top", found=top, expected="at least 1")
        for number, text in enumerate(texts, 1):
            if not text.strip():
                raise ReelTuneError("the text is empty", where=f"text {number}", expected="words to search for")
        if not texts:
            return []
        tokens = self.method.backbone.tokenize(list(texts), self.method.words)
        device = next(self.method.parameters()).device
        vectors = self.method.encode_text(tokens.to(device)).float().cpu().numpy()
        # Rounded, or the order of two equal videos would hang on how the product was split into blocks.
        table = np.round(vectors @ self.index.vectors.T, SCORE_DECIMALS)
        return [self._hits(scores, top) for scores in table]

    def kept_words(self, text: str) -> tuple[int, int]:
        """How many of the text's words fit into the task's tokens, and how many it has; the rest is not looked at."""
        words = text.split()
        whole = self.method.backbone.tokenize([text], self.method.words)[0]
        if not words or int(whole[-1]) == 0:  # padded: nothing was cut
            return len(words), len(words)
        starts = [" ".join(words[:count]) for count in range(1, len(words) + 1)]
        same = (self.method.backbone.tokenize(starts, self.method.words) == whole).all(dim=1)
        return int(same.nonzero()[0]) + 1, len(words)

    def _hits(self, scores: np.ndarray, top: int) -> list[Hit]:
        order = np.argsort(-scores, kind="stable")[:top]
        return [Hit(rank=n, score=float(scores[row]), **self.index.rows[row]) for n, row in enumerate(order, 1)]


@functools.lru_cache(maxsize=2)
def shared_backbone(settings: BackboneSettings, root: Path) -> Backbone:
    """The backbone of ``settings``, loaded once per process."""
    return load_backbone(settings, root)


def from_adapter(
    adapter: Path, root: Path, task: str, backbone: BackboneSettings, *, split: str, top: int, batch_size: int
) -> tuple[Searcher, bool]:
    """A searcher for an adapter that need not be the indexed one, and whether the ready index was used.

    Without an index of this very adapter the videos are embedded here and now, from the frame store.

    Raises:
        DataError: neither index nor frame store is there.
        AdapterError: the adapter was trained on another backbone.
    """
    from components.frames.store import FrameStore

    sha256 = indexes.read_card(adapter).sha256
    folder = Layout(root).index(task)
    method = load_adapter(adapter, shared_backbone(backbone, root))
    try:
        if indexes.read_index_card(folder)["adapter_sha256"] == sha256:
            return Searcher(method, indexes.read(folder), top), True
    except DataError:
        pass  # no usable index; the frames decide
    store = FrameStore(Layout(root).frames(task))
    index = indexes.build(method, store, split=split, adapter_sha256=sha256, batch_size=batch_size)
    return Searcher(method, index, top), False


def format_hits(hits: Sequence[Hit]) -> str:
    """Hits as an aligned table."""
    head = ("rank", "score", "span", "video", "file")
    rows = [
        (
            str(hit.rank),
            f"{hit.score:.3f}",
            f"{clock(hit.start_seconds)}-{clock(hit.end_seconds)}",
            hit.video_id,
            hit.uri,
        )
        for hit in hits
    ]
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
