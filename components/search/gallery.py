"""Test queries with what an index finds for them, right and wrong. A stated rule chooses the queries."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from components.evaluation.ranks import text_to_video
from components.frames.store import FrameStore
from components.search.card import Gallery, ShownHit, ShownQuery
from components.search.hits import clock
from components.search.index import Index
from components.search.scores import Vectors
from components.search.texts import TextVectors
from components.video import Video

# Frames shown of each video. The first, the middle and the last make most motions visible.
STRIP = 3
TOP = 5
SPLIT = "test"


@dataclass(frozen=True)
class RankedCaption:
    """A test caption with its rank.

    Attributes:
        caption: The query.
        video: The right video.
        decoded: Whether the right video has frames.
        rank: The right video's rank among the test videos. Ties count half.
    """

    caption: str
    video: Video
    decoded: bool
    rank: float


def make_gallery(texts: TextVectors, store: FrameStore, index: Index) -> Gallery | None:
    """The chosen test queries of a task with their answers.

    Args:
        texts: Encodes with the adapter that made the index.
        store: The task's frames.
        index: The index.

    Returns:
        The queries. None if no decoded test video has a caption, or the index does not hold the test videos or holds
        windows of them: captions are about whole videos.
    """
    table, videos = index.table().select(["video_id", "window_of"]), store.manifest.split(SPLIT)
    row_of = {name: row for row, name in enumerate(table["video_id"].to_pylist())}
    ids, cut = {video.video_id for video in videos}, set(table["window_of"].to_pylist())
    if not any(video.captions for video in videos) or not ids & row_of.keys() or ids & cut:
        return None
    chosen = choose(ranked_captions(texts, store, index))
    if not chosen:
        return None
    asked, vectors = texts.of([query.caption for query in chosen]), Vectors(index.blocks, torch.device("cpu"))
    found = vectors.best(asked, TOP)
    right = [row_of[query.video.video_id] for query in chosen]
    places = [vectors.place(*pair) for pair in zip(asked, right, strict=True)]
    queries = tuple(
        _shown(query, best, (row, *place), index)
        for query, best, row, place in zip(chosen, found, right, places, strict=True)
    )
    shown = dict.fromkeys(hit.video_id for query in queries for hit in (*query.best, query.right))
    return Gallery(queries, {name: _strip(store, name) for name in shown})


def ranked_captions(encoder: TextVectors, store: FrameStore, index: Index) -> list[RankedCaption]:
    """Every caption of the test split with its rank, in the order of the scorecard's rows.

    The ranks are computed as the scorecard computes them, from the vectors of the index.
    """
    videos = store.manifest.split(SPLIT)
    pairs = [(row, caption) for row, video in enumerate(videos) for caption in video.captions]
    row_of = {video_id: row for row, video_id in enumerate(index.table()["video_id"].to_pylist())}
    present = torch.tensor([video.video_id in row_of for video in videos])
    vectors = np.zeros((len(videos), index.dimension), dtype=np.float32)
    vectors[present.numpy()] = index.vectors_of([row_of[v.video_id] for v in videos if v.video_id in row_of])
    texts = encoder.of([caption for _, caption in pairs])
    owner = torch.tensor([row for row, _ in pairs])
    names = [video.video_id for video in videos]
    ranks = text_to_video(texts, torch.from_numpy(vectors), owner, present, names)
    return [
        RankedCaption(caption, videos[row], bool(present[row]), float(rank))
        for (row, caption), rank in zip(pairs, ranks.expected, strict=True)
    ]


def choose(queries: Sequence[RankedCaption], each: int = 2) -> list[RankedCaption]:
    """Takes ``each`` queries with rank 1 and ``each`` others, inside named parts of the test set and outside them.

    Within each of these four groups, the queries with the smallest hash of video and caption are taken. Nobody chooses
    this draw, and it stays the same.
    """
    groups: dict[tuple[bool, bool], list[RankedCaption]] = {(a, b): [] for a in (True, False) for b in (True, False)}
    for query in sorted(queries, key=_draw):
        group = groups[bool(query.video.subsets), query.rank == 1]
        if query.decoded and len(group) < each:
            group.append(query)
    return [query for group in groups.values() for query in group]


def _draw(query: RankedCaption) -> str:
    return hashlib.sha256(f"{query.video.video_id}\0{query.caption}".encode()).hexdigest()


def _shown(
    query: RankedCaption, best: Sequence[tuple[int, float]], right: tuple[int, int, float], index: Index
) -> ShownQuery:
    shown = tuple(_hit(rank, found, index) for rank, found in enumerate(best, 1))
    row, before, score = right
    video = query.video
    return ShownQuery(query.caption, video.video_id, tuple(video.subsets), shown, _hit(before + 1, (row, score), index))


def _hit(rank: int, found: tuple[int, float], index: Index) -> ShownHit:
    row, score = found
    known = index.table().slice(row, 1).to_pylist()[0]
    span = f"{clock(known['start_seconds'])}-{clock(known['end_seconds'])}"
    return ShownHit(rank, score, known["video_id"], span)


def _strip(store: FrameStore, video_id: str) -> tuple[str, ...]:
    frames = next(store.read([video_id])).frames
    last = len(frames) - 1
    places = sorted({round(last * step / (STRIP - 1)) for step in range(STRIP)})
    return tuple(base64.b64encode(frames[place]).decode() for place in places)
