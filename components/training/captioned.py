"""What a training with captions of frames needs, checked before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.captions.file import CARD, CURE, CaptionFile, FrameCaptions, read_captions
from components.errors import TrainingError
from components.frames.store import FrameStore
from components.manifest import first_few
from components.methods.base import Method
from components.training.settings import TrainingSettings
from components.training.step import bias_of_loss


def read_for_training(
    method: Method, settings: TrainingSettings, store: FrameStore, folder: Path, task: str, where: str
) -> CaptionFile:
    """The captions in ``folder``, if they are those of the training frames of ``store``.

    Args:
        method, settings: What trains.
        store: The frames.
        folder: :meth:`components.layout.Layout.captions`.
        task: The task's key in params.yaml.
        where: The method's key there, for messages.

    Raises:
        DataError: The captions are damaged.
        TrainingError: There are none, they were made for another store, or as :func:`check_captions`.
    """
    if not (folder / CARD).exists():
        raise TrainingError(
            "the method trains with a caption of every frame, and the task has none",
            where=f"{where}.captions",
            found=f"no {folder}",
            expected="captions, or captions: false",
            cure=f"set tasks.{task}.captions, and {CURE}",
        )
    found = read_captions(folder)
    if found.card.store != store.training_fingerprint:
        raise TrainingError(
            "the captions were made for other frames",
            where=folder,
            found=f"frame store {found.card.store[:12]}",
            expected=f"{store.training_fingerprint[:12]}, which is now in {store.uri}",
            cure=CURE,
        )
    check_captions(method, settings, store, found.of_video, where)
    return found


def check_captions(
    method: Method, settings: TrainingSettings, store: FrameStore, captions: FrameCaptions | None, where: str = ""
) -> None:
    """Checks that every training frame has a caption, and that the settings go with the losses over them.

    Args:
        method, settings, store: What trains, and on which frames.
        captions: The captions, if there are any.
        where: The method's key in params.yaml, for messages.

    Raises:
        TrainingError: They do not.
    """
    where = f"{where or f'methods.{method.name}'}.captions"
    if settings.captions_per_video > 1:
        raise TrainingError(
            "captions of frames are trained with one caption per video",
            where="training.captions_per_video",
            found=settings.captions_per_video,
            expected=1,
            cure=f"set it to 1, or {where}: false",
        )
    if bias_of_loss(method, settings) is not None:
        raise TrainingError(
            "captions of frames are trained with a softmax loss",
            where="training.loss",
            found=f"{settings.loss}, which means sigmoid on {method.spec.model}",
            expected="softmax",
            cure=f"set it to softmax, or {where}: false",
        )
    if captions is None:
        raise TrainingError("no captions of frames", where=where, found=None, expected="a caption of every frame")
    wrong = [name for name, count in _frame_counts(store).items() if len(captions.get(name, ())) != count]
    if wrong:
        raise TrainingError(
            "training videos without a caption of every frame", where=where, found=first_few(wrong), cure=CURE
        )


def _frame_counts(store: FrameStore) -> Mapping[str, int]:
    """The number of stored frames of each training video."""
    ledger = store.ledger().select(["video_id", "frames"]).to_pydict()
    frames = dict(zip(ledger["video_id"], ledger["frames"], strict=True))
    return {name: frames[name] for name in store.ids("train")}
