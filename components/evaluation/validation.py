"""The measurement between epochs. The training loop is given it as an argument and does not know the metrics."""

from __future__ import annotations

from dataclasses import dataclass

from components.evaluation.encode import encode_split
from components.evaluation.metrics import summary
from components.evaluation.ranks import text_to_video, video_to_text
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method


@dataclass(frozen=True)
class Validation:
    """Metrics of both directions on the validation split, under names such as ``t2v_R@1``.

    Args:
        batch_size: Videos, or texts, per forward pass.
        on_test: True to measure the test split instead, for ``training.select_on: test``. Scorecards of such an adapter
            have a warning.
    """

    batch_size: int
    on_test: bool = False

    def __call__(self, method: Method, store: FrameStore, reader: FrameReader) -> dict[str, float]:
        """Measures, with the same result in every process of the group.

        Returns:
            The metrics, or an empty dict if no video of the split was decoded.
        """
        split = store.manifest.protocol.test_split if self.on_test else "val"
        if not store.ids(split):
            return {}
        encoded = encode_split(method, store, reader, split, self.batch_size)
        names = [video.video_id for video in encoded.videos]
        arguments = (encoded.text_vectors, encoded.video_vectors, encoded.owner, encoded.present, names)
        directions = {"t2v": text_to_video(*arguments), "v2t": video_to_text(*arguments)}
        return {
            f"{direction}_{name}": value
            for direction, ranks in directions.items()
            for name, value in summary(ranks.expected).items()
        }
