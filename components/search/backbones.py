"""The backbone that an adapter is searched with."""

from __future__ import annotations

import functools
from pathlib import Path

from components import storage
from components.adapters.card import CARD, read_card
from components.backbones.clip import Backbone
from components.backbones.load import load_backbone
from components.backbones.naming import errors_under
from components.backbones.settings import BackboneSettings
from components.errors import AdapterError, BackboneError
from components.params import Params


# A process serves the tasks of a few backbones. Their adapters share them.
@functools.lru_cache(maxsize=8)
def shared_backbone(settings: BackboneSettings, root: Path) -> Backbone:
    """The backbone of ``settings``, loaded once per process."""
    return load_backbone(settings, root)


def task_backbone(params: Params, task: str, root: Path) -> Backbone:
    """The backbone that params.yaml gives a task.

    Raises:
        BackboneError: It cannot be loaded. The message names the key of the task's block.
    """
    with errors_under(params.backbone_key(task)):
        return shared_backbone(params.backbone_of(task), root)


def adapter_backbone(adapter: Path, params: Params, task: str, root: Path) -> tuple[Backbone, str]:
    """The backbone that an adapter needs: the task's, or the one that the adapter was trained on.

    They differ after the task got another backbone, until an adapter of the new one is champion, and if the adapter
    comes from another task.

    Args:
        adapter: The adapter's folder.
        params: The settings.
        task: Key of the task that is searched.
        root: The folder that relative paths start from.

    Returns:
        The backbone, and a line about it if it is not the task's, else "".

    Raises:
        BackboneError: The task's backbone cannot be loaded.
        AdapterError: The adapter is of another backbone, which cannot be loaded.
    """
    backbone, card = task_backbone(params, task, root), read_card(adapter)
    if backbone.spec == card.backbone:
        return backbone, ""
    own, key = card.extra.backbone, params.backbone_key(task)
    differing = ", ".join(card.backbone.differences(backbone.spec))
    reason = "its card does not say where that one is" if own is None else "the same settings load other weights now"
    if own is not None and own != params.backbone_of(task):
        try:
            found = shared_backbone(own, root)
        except BackboneError as error:
            reason = f"that one cannot be loaded ({error})"
        else:
            if found.spec == card.backbone:
                where = storage.relative(root, str(adapter))
                return found, (
                    f"the adapter in {where} was trained on {own.model} ({own.pretrained}), which is used here; "
                    f"{key} is {backbone.spec.model}. {_cure(task)}"
                )
    raise AdapterError(
        f"adapter is bound to another backbone than the task's (differs in {differing}), and {reason}",
        where=adapter / CARD,
        found=card.backbone.model,
        expected=f"{backbone.spec.model}, as {key} in params.yaml",
        cure=_cure(task),
    )


def _cure(task: str) -> str:
    return (
        "To move to the task's backbone, train on it (`dvc repro`), or without captions only run "
        f"python pipelines/index.py --task {task}. If the older champion stays ahead, first retire it: "
        f"python pipelines/register.py --task {task} --retire 'another backbone'"
    )
