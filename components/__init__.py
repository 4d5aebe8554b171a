"""reeltune: one frozen CLIP, many collections of video, one small adapter per collection."""

__version__ = "0.1.0"
