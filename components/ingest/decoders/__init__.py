"""The registry of decoders. A new one is a file here and a line below."""

from __future__ import annotations

from components.ingest.decoders.base import Decoder
from components.plugins import Registry

DECODERS: Registry[Decoder] = Registry("decoder")
DECODERS.register("auto", "components.ingest.decoders.auto:decode")
DECODERS.register("pyav", "components.ingest.decoders.pyav:decode")
DECODERS.register("torchcodec", "components.ingest.decoders.torchcodec:decode")
DECODERS.register("decord", "components.ingest.decoders.decord:decode")
