"""An adapter and a frame store to the scorecard of one split."""

from __future__ import annotations

from components.adapters.card import AdapterCard
from components.evaluation.card import Decoding, Identity, Parameters
from components.evaluation.encode import device_of, encode_split
from components.evaluation.localisation import measure_moments
from components.evaluation.rescoring import encode_bank, rescored
from components.evaluation.scorecard import Scorecard, make_scorecard
from components.evaluation.settings import EvaluationSettings
from components.frames.store import FrameStore
from components.methods.base import Method
from components.methods.reader import reader_for


def evaluate(
    method: Method, store: FrameStore, split: str, adapter: AdapterCard, seed: int, settings: EvaluationSettings
) -> Scorecard:
    """Encodes the split once and ranks every query in both directions. Re-scored metrics are kept in a separate block.

    Where the split has texts with spans, their frames are encoded once more, and the texts are looked for in them.

    Args:
        method: The backbone with the adapter.
        store: The task's frames.
        split: The videos to rank.
        adapter: The adapter's card.
        seed: The seed of the training.
        settings: The ``evaluation`` block of params.yaml.

    Raises:
        EvaluationError: No video was decoded, or a vector contains NaN or Inf.
        DataError: The store's frames do not fit the adapter.
    """
    method.eval()
    reader = reader_for(method, store)
    encoded = encode_split(method, store, reader, split, settings.batch_size, settings.precision)
    identity = _identity(adapter, store, seed, settings.precision)
    scorecard = make_scorecard(encoded, store.manifest, split, identity, settings.bootstrap, device_of(method))
    scorecard = scorecard.with_moments(measure_moments(method, store, reader, split, settings))
    if not settings.rescoring:
        return scorecard
    bank = encode_bank(method, store, reader, settings) if "qb_norm" in settings.rescoring else None
    return scorecard.with_rescored(rescored(encoded, settings, bank))


def _identity(adapter: AdapterCard, store: FrameStore, seed: int, precision: str) -> Identity:
    """Everything that the metrics depend on, for the head of the card."""
    settings = store.card.settings
    return Identity(
        task=adapter.task,
        method=adapter.label,
        seed=seed,
        settings=adapter.settings,
        frames=settings.frames,
        words=adapter.words,
        sampling=settings.sampling,
        decoding=Decoding(
            decoder=settings.decoder, size=settings.size, quality=settings.quality, chroma=settings.chroma
        ),
        epoch=adapter.extra.epoch,
        selected_on=adapter.extra.selected_on,
        parameters=Parameters(
            trainable=adapter.trainable,
            total=adapter.extra.parameters_total,
            share=adapter.share,
            artifact_bytes=adapter.bytes,
        ),
        backbone=adapter.backbone,
        adapter_sha256=adapter.sha256,
        store=store.training_fingerprint,
        precision=precision,
        provenance=adapter.provenance,
    )
