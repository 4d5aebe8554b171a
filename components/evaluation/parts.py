"""The parts of a split that have metrics besides those of the whole: named subsets, languages, originals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from components.errors import EvaluationError
from components.evaluation.card import WHOLE, Direction
from components.evaluation.encode import EncodedSplit
from components.evaluation.ranks import Ranks, both_directions

ORIGIN = "origin"
ORIGIN_RULE = "captions of the videos that do not run backwards, against these videos alone"
LANGUAGE = "language-"


@dataclass(frozen=True)
class Part:
    """Some queries of a split.

    Attributes:
        ranks: Their ranks.
        video: int64[Q] by direction, the row of the video that each query belongs to.
        rule: How they are ranked, in words, if not against the whole gallery.
    """

    ranks: Mapping[Direction, Ranks]
    video: Mapping[Direction, NDArray[np.int64]]
    rule: str | None = None


def parts_of(
    encoded: EncodedSplit, whole: Mapping[Direction, Ranks], device: torch.device | None = None
) -> dict[str, Part]:
    """All parts by name, the whole split first.

    A subset keeps the whole gallery, since a smaller one would make the task easier. Where captions are in several
    languages, each language is ranked as if the others did not exist. Where videos run backwards, the originals are
    also ranked alone.

    Args:
        encoded: The split's vectors.
        whole: The ranks of all queries.
        device: Where the similarities are computed, None for the CPU.

    Raises:
        EvaluationError: A subset has the name of another part.
    """
    parts = {WHOLE: _masked(encoded, whole, np.ones(len(encoded.videos), dtype=bool))}
    subsets = sorted({name for video in encoded.videos for name in video.subsets})
    masks = {name: np.array([name in video.subsets for video in encoded.videos]) for name in subsets}
    found = [(name, _masked(encoded, whole, mask)) for name, mask in masks.items()]
    for name, part in (*found, *_originals(encoded, device), *_languages(encoded, device)):
        if name in parts:
            raise EvaluationError(
                "a subset has the name of a part that is reported in any case",
                where=f"split {encoded.videos[0].split}",
                found=name,
                expected="another name",
                cure="rename it in subsets.json and run the ingest stage again",
            )
        parts[name] = part
    return parts


def _masked(encoded: EncodedSplit, whole: Mapping[Direction, Ranks], videos: NDArray[np.bool_]) -> Part:
    """The queries of some videos, with their ranks in the whole split."""
    rows = _rows(encoded)
    masks = {direction: videos[video] for direction, video in rows.items()}
    return Part(
        {direction: whole[direction].select(mask) for direction, mask in masks.items()},
        {direction: rows[direction][mask] for direction, mask in masks.items()},
    )


def _originals(encoded: EncodedSplit, device: torch.device | None) -> Iterator[tuple[str, Part]]:
    kept = torch.tensor([video.reverse_of is None for video in encoded.videos])
    if kept.any() and not kept.all():
        some = encoded.select(kept, torch.ones(len(encoded.texts), dtype=torch.bool))
        yield ORIGIN, Part(_ranked(some, device), _rows(some), ORIGIN_RULE)


def _languages(encoded: EncodedSplit, device: torch.device | None) -> Iterator[tuple[str, Part]]:
    spoken = np.array([name for video in encoded.videos for name in video.languages or [""] * len(video.captions)])
    everything = torch.ones(len(encoded.videos), dtype=torch.bool)
    for name in sorted(set(spoken.tolist()) - {""}):
        some = encoded.select(everything, torch.from_numpy(spoken == name))
        # A video without a caption in this language is searched, but is no query for captions.
        asking = np.isin(np.arange(len(some.videos)), some.owner.numpy())
        ranks, rows = _ranked(some, device), _rows(some)
        ranks["v2t"], rows["v2t"] = ranks["v2t"].select(asking), rows["v2t"][asking]
        yield LANGUAGE + name, Part(ranks, rows, f"captions in the language {name!r} alone, against the whole gallery")


def _ranked(encoded: EncodedSplit, device: torch.device | None) -> dict[Direction, Ranks]:
    names = [video.video_id for video in encoded.videos]
    texts, videos = encoded.text_vectors, encoded.video_vectors
    return both_directions(texts, videos, encoded.owner, encoded.present, names, device, encoded.similarity)


def _rows(encoded: EncodedSplit) -> dict[Direction, NDArray[np.int64]]:
    """The row of the video that each query belongs to."""
    return {"t2v": encoded.owner.numpy(), "v2t": np.arange(len(encoded.videos))}
