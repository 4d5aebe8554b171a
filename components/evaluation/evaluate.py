"""An adapter and a frame store to the scorecard of one split."""

from __future__ import annotations

from typing import Any

from components.adapters.card import AdapterCard
from components.evaluation.encode import encode_split
from components.evaluation.rescoring import encode_bank, rescored
from components.evaluation.scorecard import Scorecard, make_scorecard
from components.evaluation.settings import EvaluationSettings
from components.frames.reader import FrameReader
from components.frames.store import FrameStore
from components.methods.base import Method


def evaluate(
    method: Method, store: FrameStore, split: str, adapter: AdapterCard, seed: int, settings: EvaluationSettings
) -> Scorecard:
    """Encodes the split once and ranks every query in both directions; re-scored figures stand apart.

    Args:
        method: as loaded from the adapter.
        store: the task's frames.
        split: which videos.
        adapter: the adapter's card.
        seed: of the training.
        settings: ``evaluation`` of params.yaml.

    Raises:
        EvaluationError: no decoded video, or NaN or Inf in a vector.
        DataError: the store's frames do not fit the adapter.
    """
    method.eval()
    # One pass over the videos: nothing to cache.
    reader = FrameReader(store, method.backbone.resize, method.frames, cache_mib=0)
    encoded = encode_split(method, store, reader, split, settings.batch_size)
    scorecard = make_scorecard(encoded, store.manifest, split, _identity(adapter, store, seed), settings.bootstrap)
    if not settings.rescoring:
        return scorecard
    bank = encode_bank(method, store, reader, settings) if "qb_norm" in settings.rescoring else None
    return scorecard.with_rescored(rescored(encoded, settings, bank))


def _identity(adapter: AdapterCard, store: FrameStore, seed: int) -> dict[str, Any]:
    """Everything that the figures depend on, for the head of the card."""
    return {
        "task": adapter.task,
        "method": adapter.label,
        "seed": seed,
        "settings": adapter.settings,
        "frames": adapter.frames,
        "words": adapter.words,
        "sampling": store.card.settings.sampling,
        "decoding": {key: getattr(store.card.settings, key) for key in ("decoder", "size", "quality", "chroma")},
        "epoch": adapter.extra.epoch,
        "selected_on": adapter.extra.selected_on,
        "parameters": {
            "trainable": adapter.trainable,
            "total": adapter.extra.parameters_total,
            "share": adapter.share,
            "artifact_bytes": adapter.bytes,
        },
        "backbone": adapter.backbone.to_dict(),
        "adapter_sha256": adapter.sha256,
        "store": store.fingerprint,
        "provenance": adapter.provenance,
    }
