"""Building, growing and publishing the index of a task. :mod:`components.search.opened` says what an index is.

A row is known by the adapter, the video's id, its span and its frames. What an index holds already is kept where it is.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from components import storage
from components.adapters.card import FILES, WEIGHTS, read_card
from components.errors import DataError
from components.frames.store import FrameStore
from components.methods.base import Method
from components.precision import Precision
from components.provenance import sha256_file
from components.records import write_record
from components.search import near, segment_writer, segments
from components.search.card import (
    CARD,
    FORMAT,
    GALLERY,
    Gallery,
    IndexCard,
    SegmentCard,
    read_index_card,
    write_index_card,
)
from components.search.embed import Block, Embedder, Encoding, embed_blocks, run_alone
from components.search.opened import SEGMENTS, Index, read, rebuild
from components.search.plan import make_plan
from components.search.rows import Row, rows_of
from components.search.segments import Part, Segment
from components.search.single import check_single

__all__ = ["Index", "build", "grow", "publish", "read", "read_card", "write"]

logger = logging.getLogger(__name__)

# With more segments than this, all but the largest are joined. A segment that lost more than this share of its rows is
# written again without them. Both copy vectors and embed nothing.
MOST_SEGMENTS = 16
MOST_GONE = 0.2

# The file of the working state that keeps where frames of an index went in the store.
MOVES = "moves.bin"

# An approximate index is built again if more than this share of the rows is not in it, or is gone.
MOST_UNCOVERED = 0.2


@dataclass(frozen=True)
class Recipe:
    """What an index is made of, next to the rows.

    Attributes:
        adapter_sha256: Hash of the weights file of the adapter.
        encoding: How vectors are computed.
        encoder: Hash of what else decides a vector. None if it is not known.
        exact_rows: The most rows that are searched exactly. None means any number.
    """

    adapter_sha256: str
    encoding: Encoding
    encoder: str | None = None
    exact_rows: int | None = None


def build(
    method: Method,
    store: FrameStore,
    *,
    split: str,
    adapter_sha256: str,
    batch_size: int,
    precision: Precision = "float32",
    frame_vectors: bool = False,
) -> Index:
    """Embeds the decoded videos of a split, for an index that is not published.

    Args:
        method: The backbone with the adapter, on the device to use.
        store: The task's frames.
        split: ``train``, ``val``, ``test`` or ``all``.
        adapter_sha256: Hash of the weights file of the adapter in ``method``.
        batch_size: Videos per forward pass.
        precision: What the towers compute in.
        frame_vectors: Whether to keep the vector of each frame.

    Returns:
        The index. Its files are deleted already and live as long as it does.

    Raises:
        DataError: The split has no decoded video, the videos have more frames than the adapter takes, or a vector is
            not finite.
        ConfigError: The device does not compute in this precision.
    """
    recipe = Recipe(adapter_sha256, Encoding(batch_size, precision, frame_vectors))
    with tempfile.TemporaryDirectory() as scratch:
        embedder = Embedder(method, store, recipe.encoding)
        return grow(
            method, store, split, recipe, Path(scratch), Path(scratch), lambda blocks: run_alone(embedder, blocks)
        )


def grow(
    method: Method,
    store: FrameStore,
    split: str,
    recipe: Recipe,
    folder: Path,
    work: Path,
    run: Callable[[Sequence[Block]], None],
) -> Index:
    """The next version of an index: what it holds already, and what it lacks. :func:`publish` makes it current.

    Args:
        method: The backbone with the adapter.
        store: The task's frames.
        split: ``train``, ``val``, ``test`` or ``all``.
        recipe: What the index is made of.
        folder: The index folder. New segments are written into it, and no file of it is changed.
        work: Where finished blocks are kept until the version is published, and what was found out about the store.
        run: Makes blocks.

    Raises:
        DataError: The split has no decoded video, the videos have more frames than the adapter takes, or a vector is
            not finite.
        OSError: The disk does not take it.
    """
    rows = rows_of(store, split)
    _check(method, store, rows, split)
    old = _usable(folder, recipe, store.manifest.task)
    plan = make_plan(old, rows, store, work / MOVES)
    key = f"{recipe.adapter_sha256} {recipe.encoder}"
    blocks = embed_blocks(plan.new, work / "blocks", recipe.encoding, key, run)
    parts = [*plan.moved, *(Part(block) for block in blocks)]
    found = list(plan.kept)
    if parts:
        added = segment_writer.write_parts(folder / SEGMENTS, parts)
        found.append(_reopened(folder, added, store.manifest.task))
    found = _compact(found, folder, store.manifest.task)
    covering = None if old is None else old.card.near
    cards = tuple(segment.card for segment in found)
    count = sum(_left(card) for card in cards)
    card = IndexCard(
        format=FORMAT,
        task=store.manifest.task,
        videos=count,
        dimension=found[0].vectors.shape[1],
        adapter_sha256=recipe.adapter_sha256,
        backbone=method.spec,
        split=split,
        segments=cards,
        encoder=recipe.encoder,
        frame_vectors=recipe.encoding.frame_vectors,
    )
    if recipe.exact_rows is None or count <= recipe.exact_rows:
        return Index(card, tuple(found), None)
    if not near.is_installed():
        logger.warning("%d rows are searched exactly, since faiss is not installed: %s", count, near.INSTALL)
        return Index(card, tuple(found), None)
    if covering is None or not _covers(covering.segments, cards):
        covering = near.build_near(folder, cards, [segment.vectors for segment in found])
    approximate = near.Near(folder / covering.name, covering, rebuild(card.task))
    return Index(replace(card, near=covering), tuple(found), approximate)


def publish(
    index: Index, folder: Path, adapter: Path, made_from: Mapping[str, object], gallery: Gallery | None = None
) -> IndexCard:
    """Makes a version current whose segments are in the index folder. A reader sees the old version or the new one.

    Args:
        index: The version.
        folder: The index folder.
        adapter: Folder of the adapter that made the vectors.
        made_from: Further fields of :class:`IndexCard`, such as ``version`` and ``store``.
        gallery: Queries for the report, None if the index cannot answer test queries.

    Returns:
        The card of the index.
    """
    card = replace(index.card, **made_from)  # type: ignore[arg-type]
    if _has_adapter(folder, card.adapter_sha256):
        storage.write_bytes(folder / FILES[0], (adapter / FILES[0]).read_bytes())
        write_index_card(folder, card)
        _write_gallery(folder, gallery)
        _drop_others(folder, card)
        return card
    # Three files change together, so the folder is replaced as a whole.
    fresh = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    for left in folder.parent.glob(f".{folder.name}.*-[0-9]*"):
        shutil.rmtree(left)
    (fresh / SEGMENTS).mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(adapter / name, fresh / name)
    _write_gallery(fresh, gallery)
    for name in [f"{SEGMENTS}/{part.name}" for part in card.segments] + ([card.near.name] if card.near else []):
        os.replace(folder / name, fresh / name)
    write_index_card(fresh, card)
    storage.move_folder(fresh, folder)
    return card


def write(
    index: Index, folder: Path, adapter: Path, made_from: Mapping[str, object], gallery: Gallery | None = None
) -> IndexCard:
    """Copies an index that :func:`build` made into an index folder, and publishes it there. Arguments are as there."""
    card = segment_writer.write_parts(folder / SEGMENTS, [Part(segment) for segment in index.segments])
    copied = Index(replace(index.card, segments=(card,)), (_reopened(folder, card, index.card.task),))
    return publish(copied, folder, adapter, made_from, gallery)


def _check(method: Method, store: FrameStore, rows: Sequence[Row], split: str) -> None:
    if store.card.settings.frames > method.frames:
        task = store.manifest.task
        raise DataError(
            f"the frame store has more frames per video than the adapter takes ({method.frames})",
            where=store.uri,
            found=store.card.settings.frames,
            expected=f"at most {method.frames}",
            cure=f"set tasks.{task}.frames: {method.frames} and run python pipelines/ingest.py --task {task}, "
            "or choose another adapter",
        )
    check_single(method, store.manifest.task)
    if not rows:
        raise DataError("no decoded video to index", where=store.uri, found=split)


def _usable(folder: Path, recipe: Recipe, task: str) -> Index | None:
    """The index in a folder, with the segments that are whole. None if its vectors are others than those to make."""
    if not (folder / CARD).exists():
        return None
    try:
        card = read_index_card(folder)
    except DataError as error:
        logger.warning("all videos are embedded: %s", error)
        return None
    made = (card.adapter_sha256, card.encoder, card.frame_vectors)
    if made != (recipe.adapter_sha256, recipe.encoder, recipe.encoding.frame_vectors) or card.encoder is None:
        return None
    whole, found = [], []
    for part in card.segments:
        try:
            found.append(segments.open_segment(folder / SEGMENTS / part.name, part, rebuild(task), whole=True))
            whole.append(part)
        except DataError as error:
            logger.warning("the videos of a segment are embedded again: %s", error)
    return Index(replace(card, segments=tuple(whole)), tuple(found)) if found else None


def _compact(found: list[Segment], folder: Path, task: str) -> list[Segment]:
    """Applies the rule of :data:`MOST_SEGMENTS` and :data:`MOST_GONE`."""
    sparse = [segment for segment in found if _left(segment.card) < (1 - MOST_GONE) * segment.card.rows]
    if len(found) > MOST_SEGMENTS:
        largest = max(found, key=lambda segment: _left(segment.card))
        sparse = [segment for segment in found if segment is not largest or segment in sparse]
    if not sparse:
        return found
    parts = []
    for segment in sparse:
        kept = np.ones(segment.card.rows, dtype=bool)
        kept[segments.rows_of_runs(segment.card.removed)] = False
        parts.append(Part(segment, np.flatnonzero(kept)))
    card = segment_writer.write_parts(folder / SEGMENTS, parts)
    return [*(segment for segment in found if segment not in sparse), _reopened(folder, card, task)]


def _left(card: SegmentCard) -> int:
    return card.rows - sum(last + 1 - first for first, last in card.removed)


def _covers(covered: Sequence[str], cards: Sequence[SegmentCard]) -> bool:
    """Whether an approximate index of some segments is good enough for the segments of now, which begin with them."""
    first = cards[: len(covered)]
    if [card.name for card in first] != list(covered):
        return False
    rows, left = sum(card.rows for card in first), sum(_left(card) for card in first)
    others = sum(_left(card) for card in cards[len(covered) :])
    return rows - left + others <= MOST_UNCOVERED * rows


def _reopened(folder: Path, card: SegmentCard, task: str) -> Segment:
    return segments.open_segment(folder / SEGMENTS / card.name, card, rebuild(task))


def _has_adapter(folder: Path, sha256: str) -> bool:
    return (folder / CARD).exists() and (folder / WEIGHTS).exists() and sha256_file(folder / WEIGHTS) == sha256


def _write_gallery(folder: Path, gallery: Gallery | None) -> None:
    if gallery is None:
        (folder / GALLERY).unlink(missing_ok=True)
    else:
        write_record(folder / GALLERY, gallery)


def _drop_others(folder: Path, card: IndexCard) -> None:
    """Deletes what only earlier versions needed. Who has one of them open reads it to the end."""
    kept = {CARD, GALLERY, SEGMENTS, *FILES, *([card.near.name] if card.near else [])}
    names = {part.name for part in card.segments}
    others = [path for path in folder.iterdir() if path.name not in kept]
    others += [path for path in (folder / SEGMENTS).iterdir() if path.name not in names]
    for path in others:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
