"""adapter.json: what an adapter is. Reading it needs no torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from components import storage
from components.backbones.settings import BackboneSettings
from components.backbones.spec import BackboneSpec
from components.config import STRICT
from components.errors import AdapterError
from components.records import make_record, read_tree

CARD = "adapter.json"
WEIGHTS = "adapter.safetensors"
FILES = (CARD, WEIGHTS)
FORMAT = 1

# Far beyond every use, and small enough that no table over frames or tokens fills the memory.
MOST_FRAMES = 100_000
MOST_WORDS = 100_000


@dataclass(frozen=True, config=STRICT)
class ParameterInfo:
    """One tensor of the weights file.

    Attributes:
        shape: Its sizes.
        dtype: ``float32``.
    """

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, config=ConfigDict(extra="ignore", strict=True, allow_inf_nan=False))
class TrainingFacts:
    """What a training adds to the card. A field is None where it is not known.

    Attributes:
        seed: The seed of the training.
        epoch: The epoch that gave the parameters, from 1.
        parameters_total: Scalars in the backbone.
        training: The ``training`` block of params.yaml at that time.
        store: Fingerprint of what training reads of the frame store.
        training_key: Hash of everything that decides the result.
        backbone: The settings that loaded the backbone, also of an adapter without training.
        captions: Fingerprint of the captions of frames that it was trained with, by task.
    """

    seed: int | None = None
    epoch: int | None = None
    parameters_total: int | None = None
    training: dict[str, Any] | None = None
    store: str | None = None
    training_key: str | None = None
    backbone: BackboneSettings | None = None
    captions: dict[str, str] | None = None

    @property
    def selected_on(self) -> str | None:
        """The split that chose the epoch (``training.select_on``)."""
        return (self.training or {}).get("select_on")


@dataclass(frozen=True, config=STRICT)
class AdapterCard:
    """The content of adapter.json.

    Attributes:
        format: Version of this format, :data:`FORMAT`.
        method: Registered name of the method, or several joined by ``+``.
        label: The method's entry in params.yaml.
        temporal: Whether the order of frames can matter.
        settings: All settings of the method.
        task: The collection that the adapter was trained for.
        frames: T, the most frames per video.
        words: L, the most tokens per text.
        backbone: The backbone that the adapter is bound to.
        parameters: The tensors of the weights file by name.
        trainable: Scalars in these tensors.
        share: ``trainable`` divided by the scalars of the backbone.
        bytes: Size of the weights file.
        sha256: Hash of the weights file.
        provenance: Commit and package versions.
        extra: What the training adds.
    """

    format: int
    method: str
    label: str
    temporal: bool
    settings: dict[str, Any]
    task: str
    frames: Annotated[int, Field(ge=1, le=MOST_FRAMES)]
    words: Annotated[int, Field(ge=3, le=MOST_WORDS)]
    backbone: BackboneSpec
    parameters: dict[str, ParameterInfo]
    trainable: int
    share: float
    bytes: int
    sha256: str
    provenance: dict[str, Any]
    extra: TrainingFacts

    def to_dict(self) -> dict[str, Any]:
        """The mapping that adapter.json holds, with lists for tuples."""
        tree = {**asdict(self), "backbone": self.backbone.to_dict()}
        tree["extra"] = {name: value for name, value in tree["extra"].items() if value is not None}
        return dict(json.loads(json.dumps(tree)))


def read_card(folder: Path) -> AdapterCard:
    """The card of the adapter in ``folder``.

    Raises:
        AdapterError: adapter.json is missing or damaged, or has another format.
    """
    path = folder / CARD
    tree = read_tree(path, error=AdapterError, cure="run the train stage")
    # The format is checked first: each field of another format would be reported as a fault.
    if tree.get("format") != FORMAT:
        raise AdapterError("adapter of another format", where=path, found=tree.get("format"), expected=FORMAT)
    return make_record(tree, AdapterCard, path, error=AdapterError)


def write_card(folder: Path, card: AdapterCard) -> None:
    """Writes adapter.json. The file appears whole or not at all."""
    storage.write_bytes(folder / CARD, (json.dumps(card.to_dict(), indent=2) + "\n").encode())
