"""Where in its video a text is true: spans from the scores of the frames, and their metrics on a split.

Each stored frame has a score, the cosine of its vector with the text's, and is taken for the part of the video that is
nearer to it than to another frame. Every run of neighbouring frames is a candidate. With n of T frames in the run, its
score is::

    (mean inside - mean outside) * sqrt(n (T - n) / T)

This is the statistic of a two-sample test with known variance, so neither a single frame nor half of the video is
favoured. (Circular binary segmentation looks for segments with it: Olshen et al., Biostatistics 2004.) The whole video
has the score 0. Of equal scores the longer run comes first, then the earlier one. Runs that overlap a better one by an
IoU of :data:`OVERLAP` or more are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from components.evaluation import bootstrap
from components.evaluation.card import Moments
from components.evaluation.encode import encode_frames, encode_texts
from components.evaluation.moments import ANSWERS, Spans, by_length, of_queries
from components.evaluation.settings import EvaluationSettings
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method
from components.moments import apart
from components.video import Video

# The IoU from which a run counts as the same answer as a better one.
OVERLAP = 0.5

# The largest IoU below it.
BELOW = float(np.nextafter(OVERLAP, 0.0))

# Vectors of frames that are held at a time, counted in videos. It bounds the memory for any number of videos.
VIDEOS = 256

# Cosines and scores of runs are compared to so many decimals, so that equal frames are equal.
DECIMALS = 6

RULE = (
    "runs of stored frames, scored by (mean cosine inside - outside) * sqrt(n (T - n) / T) and thinned at an IoU of "
    f"{OVERLAP:g}; the first {ANSWERS} count; queries of videos that failed to decode count as wrong"
)


def edges_of(times: Sequence[float], start: float, end: float) -> NDArray[np.float64]:
    """Where the part of each frame begins and ends, in seconds from ``start``: ``float64[T + 1]``.

    Args:
        times: When the frames are shown, ascending, T at least 1.
        start, end: The part of the file that is the video.
    """
    shown = np.asarray(times, dtype=np.float64) - start
    return np.concatenate([[0.0], (shown[1:] + shown[:-1]) / 2, [max(end - start, shown[-1])]])


def answer(scores: NDArray[np.floating], edges: NDArray[np.float64]) -> Spans:
    """The spans of a video that fit a text best, the best first: ``float64[n, 2]``, n at most :data:`ANSWERS`.

    Args:
        scores: float[T], one score per frame.
        edges: float64[T + 1], from :func:`edges_of`.
    """
    total = len(scores)
    first, last = np.triu_indices(total)
    inside = last - first + 1
    sums = np.concatenate([[0.0], np.cumsum(np.round(scores.astype(np.float64), DECIMALS))])
    found = sums[last + 1] - sums[first]
    outside = total - inside
    contrast = found / inside - (sums[-1] - found) / np.maximum(outside, 1)
    contrast = np.round(contrast * np.sqrt(inside * outside / total), DECIMALS)
    spans = np.stack([edges[first], edges[last + 1]], axis=1)
    spans, contrast = spans[spans[:, 0] < spans[:, 1]], contrast[spans[:, 0] < spans[:, 1]]
    order = np.lexsort((spans[:, 0], spans[:, 0] - spans[:, 1], -contrast))
    ranked = spans[order]
    return ranked[apart(ranked, BELOW, ANSWERS)]


def measure_moments(
    method: Method, store: FrameStore, reader: FrameReader, split: str, settings: EvaluationSettings
) -> Moments | None:
    """Looks for every text with spans in its video.

    Args:
        method: The backbone with the adapter, on the device that encodes.
        store: The task's frames.
        reader: Gives these frames.
        split: The videos.
        settings: The ``evaluation`` block of params.yaml.

    Returns:
        The metrics, None if no video of the split has texts with spans.

    Raises:
        DataError: The store's frames do not fit the method.
    """
    videos = [video for video in store.manifest.split(split) if video.moments]
    if not videos:
        return None
    decoded = set(store.ids(split))
    kept = [video for video in videos if video.video_id in decoded]
    times = store.times([video.video_id for video in kept])
    edges = {video.video_id: _edges(video, *times[video.video_id]) for video in kept}
    found: dict[str, list[Spans]] = {}
    for start in range(0, len(kept), VIDEOS):
        found |= _answers(method, reader, kept[start : start + VIDEOS], edges, settings)
    nothing = np.empty((0, 2))
    whole = {name: np.array([[cuts[0], cuts[-1]]]) for name, cuts in edges.items()}
    answers = [some for video in videos for some in found.get(video.video_id, [nothing] * len(video.moments))]
    peers = [whole.get(video.video_id, nothing) for video in videos for _ in video.moments]
    true = [np.array(moment.spans) for video in videos for moment in video.moments]
    owner = np.array([row for row, video in enumerate(videos) for _ in video.moments])
    values = of_queries(answers, true)
    return Moments(
        queries=len(true),
        videos=len(videos),
        failed_videos=len(videos) - len(kept),
        metrics=_means(values) | _rounded(by_length(answers, true)),
        intervals={name: bootstrap.mean_interval(each, owner, settings.bootstrap) for name, each in values.items()},
        whole_video=_means(of_queries(peers, true)) | _rounded(by_length(peers, true)),
        rule=RULE,
    )


def _edges(video: Video, times: Sequence[float], length: float) -> NDArray[np.float64]:
    start = video.start_seconds or 0.0
    end = min(video.end_in(length), length)
    if video.reverse_of is not None:  # shown backwards, so the stored times descend
        times = [start + end - time for time in times]
    return edges_of(times, start, end)


def _answers(
    method: Method,
    reader: FrameReader,
    videos: Sequence[Video],
    edges: dict[str, NDArray[np.float64]],
    settings: EvaluationSettings,
) -> dict[str, list[Spans]]:
    """The answers to the texts of some videos, by id and in the order of the texts."""
    size, precision = settings.batch_size, settings.precision
    frames = encode_frames(method, reader, [video.video_id for video in videos], size, precision).double()
    texts = encode_texts(method, [moment.text for video in videos for moment in video.moments], size, precision)
    answers, row = {}, 0
    for video, vectors in zip(videos, frames, strict=True):
        cuts = edges[video.video_id]
        own = texts[row : row + len(video.moments)].double()
        row += len(video.moments)
        scores = method.similarity.matrix(own, vectors[: len(cuts) - 1]).numpy()
        answers[video.video_id] = [answer(line, cuts) for line in scores]
    return answers


def _means(values: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    return _rounded({name: float(each.mean()) for name, each in values.items()})


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, bootstrap.DECIMALS) for name, value in metrics.items()}
