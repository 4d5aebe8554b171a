"""A miniature project with real films, a frame store that ingest's code made of them, and an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tiny_world
import trained_world
import video_files

from components.adapters.file import load_adapter
from components.ingest.publish import write_store
from components.ingest.run import read_settings
from components.ingest.shards import flat_ledger, make_shard, plan_shards
from components.layout import Layout
from components.manifest import Manifest, Protocol
from components.search import index as indexes
from components.search.backbones import shared_backbone

FPS = 4
FRAMES = 8


def write_filmed(root: Path, method: str = "mv_adapter") -> None:
    """Writes eight films of two seconds, decodes them without Ray, and indexes all of them."""
    tiny_world.write_params(root)
    tiny_world.write_backbone(root)
    videos = tiny_world.videos(2, 2, 4)
    for video in videos:
        pictures = [np.kron(picture, np.ones((2, 2, 1), np.uint8)) for picture in tiny_world.draw(video, FRAMES)]
        video_files.write_frames(root / video.uri, pictures, FPS)
    manifest = Manifest(tiny_world.TASK, Protocol("msrvtt", "tiny", "one caption", "listed"), videos)
    params, layout = tiny_world.params(root, "frames.size=32"), Layout(root)
    settings = read_settings(params.task(tiny_world.TASK), params.frames)
    folder = layout.frames(tiny_world.TASK)
    with settings.process() as process:
        shards = plan_shards(manifest, settings.shard_videos)
        records = [make_shard(shard, root, folder, settings, process) for shard in shards]
    write_store(folder, manifest, settings, records, flat_ledger(records, manifest))
    trained_world.add_adapter(root, params, method, 0)
    write_index(root, f"{method}-0", "all")


def write_index(root: Path, name: str, split: str, removed: Sequence[str] = ()) -> indexes.Index:
    """Writes an index of a split as the index stage does for an adapter that somebody chose."""
    from components.frames.store import FrameStore

    params, layout = tiny_world.params(root), Layout(root)
    adapter = root / "outputs" / "adapters" / tiny_world.TASK / name
    store = FrameStore(layout.frames(tiny_world.TASK))
    method = load_adapter(adapter, shared_backbone(params.backbone, root))
    made = indexes.build(method, store, split=split, adapter_sha256=indexes.read_card(adapter).sha256, batch_size=4)
    indexes.write(made, layout.index(tiny_world.TASK), adapter, {"split": split, "store": store.fingerprint})
    return made
