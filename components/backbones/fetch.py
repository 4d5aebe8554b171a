"""Puts all files of a model into one folder, which ``backbone.pretrained`` takes on a machine without a network."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import open_clip

from components import storage
from components.backbones.hub import PREFIX, Repository
from components.backbones.load import check_scope, model_config
from components.backbones.sources import (
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    PIXELS,
    PREPROCESSOR,
    Source,
    find_tokenizer,
    in_files,
    of_tag,
)
from components.backbones.tokenizers import TOKENIZER, TOKENIZER_CONFIG
from components.backbones.weights import INDEX_SUFFIX, weight_map
from components.errors import BackboneError

logger = logging.getLogger(__name__)


def fetch_model(model: str, source: str, root: Path, to: Path) -> Path:
    """Fetches a model's weights, its config and its tokenizer.

    Args:
        model: As ``backbone.model``.
        source: A pretrained tag of the model, or a repository.
        root: The folder that relative paths start from.
        to: The folder that gets the subfolder.

    Returns:
        The subfolder.

    Raises:
        BackboneError: The model is not supported, there is no such tag or repository, or a file cannot be fetched.
    """
    raw, _ = model_config(model, root)
    check_scope(model, raw)
    tagged = of_tag(model, source, raw)
    repository = Repository.parse(source)
    if tagged is not None:
        found = tagged
    elif repository is not None:
        found = in_files(repository, f"{PREFIX}{repository}")
    else:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "no tags"
        raise BackboneError(
            "no such weights", where=model, found=source, expected=f"one of {tags}, or a repository (owner/name)"
        )
    folder = to / _folder_name(model, source)
    _copy(found.weights, folder / _weights_name(found.weights, tagged is not None))
    if found.weights.name.endswith(INDEX_SUFFIX):
        for name in sorted(set(weight_map(found.weights).values())):
            _copy(found.weights.parent / name, folder / name)
    _copy_tokenizer(find_tokenizer(found, raw), folder)
    if found.config is None:
        # The tag says how pixels are prepared and which GELU it is. The repository's own config need not agree.
        _write_config(folder / OPEN_CLIP_CONFIG, raw, found)
    else:
        for name in {found.config.name, PREPROCESSOR}:
            path = found.files.get(name) if found.files else None
            if path is not None:
                _copy(path, folder / name)
    return folder


def fetch_tokenizer(repository: str, to: Path) -> Path:
    """Fetches tokenizer.json and what belongs to it into a subfolder of ``to``, and returns the subfolder.

    Raises:
        BackboneError: There is no such repository or file, or it cannot be fetched.
    """
    name = Repository.parse(repository) or Repository(repository)
    path = name.need(TOKENIZER)
    name.at(path).get(TOKENIZER_CONFIG)
    folder = to / _folder_name("tokenizer", repository)
    _copy_tokenizer(path, folder)
    return folder


def _folder_name(model: str, source: str) -> str:
    stem = Path(model).stem if model.endswith(".json") else model.removeprefix(PREFIX)
    return re.sub(r"[^\w.-]+", "-", f"{stem}-{source.removeprefix(PREFIX)}")


def _weights_name(path: Path, tag: bool) -> str:
    if not tag:
        return path.name
    # Whatever an address calls it, a folder's weights have one of open_clip's names.
    suffix = ".pt" if path.suffix == ".pth" else path.suffix
    return next(name for name in OPEN_CLIP_WEIGHTS if name.endswith(suffix))


def _copy_tokenizer(path: Path | None, folder: Path) -> None:
    if path is None:
        return
    for name in (TOKENIZER, TOKENIZER_CONFIG):
        if path.with_name(name).is_file():
            _copy(path.with_name(name), folder / name)


def _copy(source: Path, target: Path) -> None:
    logger.info("writing %s", target)
    with storage.atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)


def _write_config(path: Path, raw: dict[str, Any], found: Source) -> None:
    told = found.preprocess or {}
    images = {name: told[name] for name in PIXELS if name in told}
    content = {"model_cfg": {**raw, "quick_gelu": bool(found.quick_gelu)}, "preprocess_cfg": images}
    storage.write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())
