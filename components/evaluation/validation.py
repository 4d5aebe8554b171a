"""The measurement between epochs. The training loop gets it as an argument and knows no metrics itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from components.evaluation.encode import device_of, encode_split
from components.evaluation.metrics import summary
from components.evaluation.ranks import both_directions
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method
from components.precision import Precision, check_precision


@dataclass(frozen=True)
class Validation:
    """Metrics of both directions on the validation split, as ``t2v_R@1`` and so on.

    Args:
        batch_size: Videos or texts per forward pass.
        on_test: Whether to measure the test split instead (``training.select_on: test``). Scorecards then carry a
            warning.
        precision: What the towers compute in.
    """

    batch_size: int
    on_test: bool = False
    precision: Precision = "float32"

    def check(self, device: torch.device) -> None:
        """Checks that ``device`` computes in the precision.

        Raises:
            ConfigError: It does not.
        """
        check_precision(self.precision, device, "evaluation.precision")

    def __call__(self, method: Method, store: FrameStore, reader: FrameReader) -> dict[str, float]:
        """Returns the metrics, the same in every process of the group. They are empty if no video was decoded."""
        split = store.manifest.protocol.test_split if self.on_test else "val"
        if not store.ids(split):
            return {}
        done = encode_split(method, store, reader, split, self.batch_size, self.precision)
        names = [video.video_id for video in done.videos]
        both = both_directions(
            done.text_vectors, done.video_vectors, done.owner, done.present, names, device_of(method), done.similarity
        )
        return {
            f"{direction}_{name}": value
            for direction, ranks in both.items()
            for name, value in summary(ranks.expected).items()
        }
