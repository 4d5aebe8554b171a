"""The approximate index of a large collection: faiss, with vectors in lists by their nearest centre, in one byte each.

A search looks at a fixed number of lists and proposes rows. :mod:`components.search.scores` scores those exactly.
faiss is needed only here: ``pip install "reeltune[ann]"``.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components import storage
from components.errors import DataError, one_line
from components.provenance import sha256_file
from components.search.card import FileCard, NearCard, SegmentCard

# More centres make shorter lists. Four times the root of the rows balances the two costs of a search.
CENTRES_FACTOR = 4
# A search looks at so many lists that they hold about this many rows, within bounds: 28 of 4000 at a million rows.
SCANNED = 7000
LEAST_PROBED, MOST_PROBED = 24, 64
# Vectors per centre that train the centres, and passes over them.
TRAINING_ROWS = 40
PASSES = 10
# Proposed rows per place, and the fewest. A byte per number puts a few rows in the wrong order.
PROPOSED = 5
FEWEST = 64
# A longer list of answers is searched exactly.
MOST = 1000

INSTALL = 'pip install "reeltune[ann]"'


class Near:
    """An approximate index of the first rows of an index.

    Args:
        path: Its file, which is memory-mapped.
        card: What the version of the index says about it.
        cure: What to do about a fault.

    Raises:
        DataError: The file is missing or damaged.
    """

    most = MOST

    def __init__(self, path: Path, card: NearCard, cure: str) -> None:
        import faiss

        self.rows = card.rows
        size = storage.size(path)
        if size != card.file.bytes:
            fault = "missing" if size is None else "damaged"
            raise DataError(fault, where=path, found=size, expected=f"{card.file.bytes} bytes", cure=cure)
        try:
            self._index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            reason = one_line(error)
            raise DataError("damaged", where=path, found=reason, cure=cure) from None
        self._index.nprobe = probed(card.rows, self._index.nlist)
        self._among: Any = None

    def without(self, gone: NDArray[np.int64]) -> Near:
        """The same without some rows, ascending. Otherwise they could be all that it proposes."""
        import faiss

        kept = np.ones(self.rows, dtype=bool)
        kept[gone[gone < self.rows]] = False
        if kept.all():
            return self
        other = copy.copy(self)
        selector = faiss.IDSelectorBitmap(np.packbits(kept, bitorder="little"))
        other._among = faiss.SearchParametersIVF(nprobe=self._index.nprobe, sel=selector)
        return other

    def candidates(self, query: NDArray[np.float32], top: int) -> NDArray[np.int64]:
        """Rows that may be among the ``top`` best for a query ``float32[D]``."""
        _, rows = self._index.search(query[None], max(FEWEST, PROPOSED * top), params=self._among)
        found: NDArray[np.int64] = rows[0][rows[0] >= 0]
        return found


def probed(rows: int, lists: int) -> int:
    """How many of its lists a search of so many rows looks at."""
    return min(MOST_PROBED, max(LEAST_PROBED, round(SCANNED * lists / max(1, rows))))


def is_installed() -> bool:
    """Whether faiss can be imported."""
    return importlib.util.find_spec("faiss") is not None


def build_near(folder: Path, segments: Sequence[SegmentCard], blocks: Sequence[NDArray[np.float32]]) -> NearCard:
    """Builds the approximate index of segments and writes it into the index folder.

    Args:
        folder: The index folder.
        segments: The segments' cards.
        blocks: float32[n, D] of each, with the rows that are gone.

    Raises:
        OSError: The disk does not take it.
    """
    import faiss

    count = sum(len(block) for block in blocks)
    centres = max(1, min(count // TRAINING_ROWS, round(CENTRES_FACTOR * count**0.5)))
    index: Any = faiss.index_factory(blocks[0].shape[1], f"IVF{centres},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = TRAINING_ROWS
    index.cp.min_points_per_centroid = 1  # faiss would warn of the few that a sample may lack
    index.cp.niter = PASSES
    index.train(_sample(blocks, centres * TRAINING_ROWS))
    for block in blocks:
        for start in range(0, len(block), 1 << 16):
            index.add(np.ascontiguousarray(block[start : start + (1 << 16)]))
    names = tuple(segment.name for segment in segments)
    temporary = folder / ".new.faiss"
    try:
        faiss.write_index(index, str(temporary))
        sha256 = sha256_file(temporary)
        file = FileCard(temporary.stat().st_size, sha256)
        name = f"near-{sha256[:16]}.faiss"
        temporary.replace(folder / name)
    except RuntimeError as error:  # faiss says so if the disk does not take the file
        raise DataError(
            "faiss cannot write the approximate index",
            where=folder,
            found=one_line(error),
            cure="make room on the disk, and run the index stage again",
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return NearCard(name, file, names, count)


def _sample(blocks: Sequence[NDArray[np.float32]], most: int) -> NDArray[np.float32]:
    """Evenly spaced rows of all blocks."""
    count = sum(len(block) for block in blocks)
    step = max(1, -(-count // max(1, most)))
    return np.concatenate([np.asarray(block[::step]) for block in blocks])
