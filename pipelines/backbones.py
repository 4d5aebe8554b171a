"""Writes down the backbone of each task, so that another backbone reruns the stages of its tasks and no others."""

from __future__ import annotations

import json
from functools import lru_cache

import _here  # noqa: F401

from components import cli, storage
from components.backbones.identity import families, identity
from components.fingerprint import code_of


def body(stage: cli.Stage) -> None:
    """Settings, weights files and the code of the family -> outputs/backbones/<task>.json."""
    written = set()
    identity_of = lru_cache(identity)  # large files are read once
    for task in stage.params.tasks:
        settings = stage.params.backbone_of(task)
        code = code_of("backbones", families(settings, stage.root)).sha256
        text = json.dumps({**identity_of(settings, stage.root), "code": code}, indent=1) + "\n"
        storage.write_bytes(stage.layout.backbone(task), text.encode())
        written.add(stage.layout.backbone(task))
    for left_over in {*stage.layout.backbones.glob("*.json")} - written:
        left_over.unlink()


if __name__ == "__main__":
    cli.main(body, __doc__ or "")
