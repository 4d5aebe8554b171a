"""Decoders of video files: one file and one line here each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.plugins import Registry

if TYPE_CHECKING:
    from components.frames.decoders.base import Decoder

DECODERS: Registry[Decoder] = Registry("decoder")
DECODERS.register("auto", "components.frames.decoders.auto:decode")
DECODERS.register("pyav", "components.frames.decoders.pyav:decode")
DECODERS.register("torchcodec", "components.frames.decoders.torchcodec:decode")
DECODERS.register("decord", "components.frames.decoders.decord:decode")
