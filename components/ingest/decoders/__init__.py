"""Decoders of video files: one file and one line here each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.plugins import Registry

if TYPE_CHECKING:
    from components.ingest.decoders.base import Decoder

DECODERS: Registry[Decoder] = Registry("decoder")
DECODERS.register("auto", "components.ingest.decoders.auto:decode")
DECODERS.register("pyav", "components.ingest.decoders.pyav:decode")
DECODERS.register("torchcodec", "components.ingest.decoders.torchcodec:decode")
DECODERS.register("decord", "components.ingest.decoders.decord:decode")
