"""adapter.json: what an adapter is, readable without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.errors import AdapterError

CARD = "adapter.json"
WEIGHTS = "adapter.safetensors"
FORMAT = 1

# Every key of adapter.json and the type of its value.
KEYS: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "method": str,  # registered name, or several joined by +
    "label": str,  # its entry in params.yaml
    "temporal": bool,  # whether the order of frames can matter
    "settings": dict,  # the method's settings, all of them
    "task": str,
    "frames": int,  # T, the most frames per video
    "words": int,  # L, the most tokens per text
    "backbone": dict,  # the spec the adapter is bound to
    "parameters": dict,  # name -> {"shape": [...], "dtype": "float32"}, exactly those of the weights file
    "trainable": int,  # scalars
    "share": (int, float),  # trainable / all scalars of the backbone
    "bytes": int,  # size of the weights file
    "sha256": str,  # of the weights file
    "provenance": dict,  # commit, versions
    "extra": dict,
}


def read_card(folder: Path) -> dict[str, Any]:
    """adapter.json of an adapter folder.

    Raises:
        AdapterError: absent, damaged or written by another version of the format.
    """
    path = Path(folder) / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AdapterError("no adapter", where=path, found=error.strerror, cure="run the train stage") from None
    except ValueError as error:
        raise AdapterError("adapter card is damaged", where=path, found=str(error)) from None
    if not isinstance(card, dict):
        raise AdapterError("adapter card is damaged", where=path, expected="a JSON object")
    if card.get("format") != FORMAT:
        raise AdapterError("adapter format is another version", where=path, found=card.get("format"), expected=FORMAT)
    for key, kind in KEYS.items():
        if not isinstance(card.get(key), kind) or (isinstance(card.get(key), bool) and kind is not bool):
            raise AdapterError(f"adapter card has no valid {key!r}", where=path, found=card.get(key))
    return card
