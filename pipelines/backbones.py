"""Writes down the backbone of each task, so that another backbone reruns the stages of its tasks and no others."""

from __future__ import annotations

import json
from functools import lru_cache

import _here  # noqa: F401

from components import cli, storage
from components.backbones.identity import identity


def body(stage: cli.Stage) -> None:
    """Settings and weights files -> outputs/backbones/<task>.json."""
    written = set()
    identity_of = lru_cache(identity)  # large files are read once
    for task in stage.params.tasks:
        text = json.dumps(identity_of(stage.params.backbone_of(task), stage.root), indent=1) + "\n"
        storage.write_bytes(stage.layout.backbone(task), text.encode())
        written.add(stage.layout.backbone(task))
    for left_over in {*stage.layout.backbones.glob("*.json")} - written:
        left_over.unlink()


if __name__ == "__main__":
    cli.main(body, __doc__ or "")
