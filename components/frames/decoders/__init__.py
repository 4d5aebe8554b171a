"""Decoders of video files: one file and one line here each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.plugins import Registry

if TYPE_CHECKING:
    from components.frames.decoders.base import Decoder

DECODERS: Registry[Decoder] = Registry("decoder")
DECODERS.register("decord", "components.frames.decoders.decord:decode")
