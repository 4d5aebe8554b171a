"""The adapter that embeds a task: one that is named, the champion, or the plain backbone."""

from __future__ import annotations

from pathlib import Path

from components.frames.store import FrameStore
from components.layout import Layout
from components.params import Params
from components.search.backbones import task_backbone
from components.search.source import Source, of_champion, read_source, write_plain
from components.tracking.champion import current_champion


def choose_source(
    layout: Layout, params: Params, task: str, adapter: Path | None, store: FrameStore
) -> tuple[Source, str]:
    """The adapter to embed with. The plain backbone embeds a collection without captions, which has no champion.

    Args:
        layout: The paths of the project.
        params: The settings.
        task: Key of the task in params.yaml.
        adapter: The folder of the adapter to use, None for the champion.
        store: The task's frames.

    Returns:
        The adapter, and what a person should know about it, which may be empty.

    Raises:
        ReelTuneError: There is no such adapter, or no champion.
    """
    if adapter is not None:
        return read_source(adapter), ""
    if store.manifest.is_only_searched:
        plain = task_backbone(params, task, layout.root)
        return write_plain(layout, task, params.task(task), plain, params.backbone_of(task)), ""
    current = current_champion(layout, params.tracking, task)
    return of_champion(layout, current.champion), current.note
