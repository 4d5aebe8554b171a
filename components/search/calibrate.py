"""Makes the cut-off of an index from the captions of its collection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.evaluation.encode import encode_videos
from components.frames.store import FrameStore
from components.manifest import Manifest
from components.methods.reader import reader_for
from components.search.cutoff import DECIMALS, FEWEST_VIDEOS, FORMAT, CutOff, background_rows, levels
from components.search.index import Index
from components.search.texts import TextVectors

Blocks = Sequence[NDArray[np.float32]]

# Captions per split, evenly spaced. With 1,000, a share of 5 % is known to 1.4 points.
MOST_CAPTIONS = 1000

# Rows of the index whose scores are in memory at once.
CHUNK_ROWS = 16_384


@dataclass(frozen=True)
class Asked:
    """Captions with what they are about.

    Attributes:
        texts: Q captions.
        sources: For each, the id of its video.
        same: For each, the ids of all videos that have this caption.
    """

    texts: list[str]
    sources: list[str]
    same: list[frozenset[str]]


def calibrate(encoder: TextVectors, store: FrameStore, index: Index, adapter_sha256: str) -> CutOff | None:
    """The cut-off of an index, with its measurement on test captions if the index holds their videos.

    Args:
        encoder: Encodes with the adapter that made the index.
        store: The task's frames.
        index: The index.
        adapter_sha256: Hash of the weights file of the adapter.

    Returns:
        The cut-off. None if the collection has no validation captions, or the index has too few videos.
    """
    if index.count < FEWEST_VIDEOS:
        return None
    decoded = store.ids("val")
    asked = captions(store.manifest, "val", set(decoded))
    if not asked.texts:
        return None
    rows, blocks = rows_of_sources(index), tuple(index.blocks)
    background = index.vectors_of(background_rows(index.count))

    def found(asked: Asked, rows: dict[str, list[int]], blocks: Blocks) -> list[tuple[float, ...]]:
        texts = encoder.of(asked.texts).numpy()
        return [_sorted(values) for values in heights(blocks, background, texts, asked, rows)]

    tested = captions(store.manifest, "test", set(rows))
    of_test = found(tested, rows, blocks) if tested.texts else []
    # Hard negatives of a caption are in its split, and belong to the wrong answers.
    if outside := [name for name in decoded if name not in rows]:
        method, size = encoder.method, encoder.batch_size
        vectors = encode_videos(method, reader_for(method, store), outside, size, encoder.precision).numpy()
        rows = {**rows, **{name: [index.count + place] for place, name in enumerate(outside)}}
        blocks = (*blocks, vectors)
    return CutOff(FORMAT, adapter_sha256, index.count, *found(asked, rows, blocks), *of_test)


def captions(manifest: Manifest, split: str, usable: set[str]) -> Asked:
    """Captions of a split's usable videos, at most :data:`MOST_CAPTIONS`, evenly spaced.

    Args:
        manifest: The collection.
        split: ``val`` or ``test``.
        usable: Ids of the videos whose captions count.
    """
    owners: dict[str, set[str]] = {}
    for video in manifest.videos:
        for caption in video.captions:
            owners.setdefault(_plain(caption), set()).add(video.video_id)
    pairs = [(text, v.video_id) for v in manifest.split(split) if v.video_id in usable for text in v.captions]
    if len(pairs) > MOST_CAPTIONS:
        pairs = [pairs[place] for place in np.linspace(0, len(pairs) - 1, MOST_CAPTIONS).round().astype(int)]
    return Asked(
        [text for text, _ in pairs],
        [source for _, source in pairs],
        [frozenset(owners[_plain(text)]) for text, _ in pairs],
    )


def _plain(caption: str) -> str:
    return " ".join(caption.lower().split())


def rows_of_sources(index: Index) -> dict[str, list[int]]:
    """The rows of each video: its windows, or itself."""
    table = index.table().select(["video_id", "window_of"]).to_pydict()
    rows: dict[str, list[int]] = {}
    for number, (name, source) in enumerate(zip(table["video_id"], table["window_of"], strict=True)):
        rows.setdefault(source or name, []).append(number)
    return rows


def heights(
    blocks: Blocks,
    background: NDArray[np.float32],
    texts: NDArray[np.float32],
    asked: Asked,
    rows: dict[str, list[int]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far above the background each caption's best wrong answer is, and its right one.

    Args:
        blocks: The vectors of all possible answers, ``float32[n, D]`` each.
        background: ``float32[B, D]``, the vectors of the background.
        texts: ``float32[Q, D]``, the vectors of the captions.
        asked: The captions.
        rows: The rows of each video, counted through all blocks.

    Returns:
        ``float64[Q]`` twice. A wrong answer is the best one after all videos with this caption were taken out, so it is
        NaN if none is left. The right one is NaN if its video is not among the answers.
    """
    out = [[row for name in same for row in rows.get(name, ())] for same in asked.same]
    wanted = [rows.get(source, []) for source in asked.sources]
    absent, right = np.full((2, len(texts)), -np.inf)
    for start, block in _chunks(blocks):
        scores = texts @ block.T
        end = start + len(block)
        for number, (gone, own) in enumerate(zip(out, wanted, strict=True)):
            here = [row - start for row in own if start <= row < end]
            right[number] = max(right[number], scores[number, here].max(initial=-np.inf))
            scores[number, [row - start for row in gone if start <= row < end]] = -np.inf
        absent = np.maximum(absent, scores.max(axis=1))
    middle, deviation = levels(texts @ background.T)
    above = [np.where(np.isfinite(best), (best - middle) / deviation, np.nan) for best in (absent, right)]
    return above[0], above[1]


def _chunks(blocks: Blocks) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The vectors in parts that fit into memory with their scores, each with the number of its first row."""
    number = 0
    for block in blocks:
        for start in range(0, len(block), CHUNK_ROWS):
            yield number + start, block[start : start + CHUNK_ROWS]
        number += len(block)


def _sorted(found: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(sorted(round(float(value), DECIMALS) for value in found if not np.isnan(value)))
