"""What an index and an export hold: one vector per video, and one per text."""

from __future__ import annotations

from components.errors import DataError
from components.methods.base import Method


def check_single(method: Method, task: str) -> None:
    """Refuses a method with several vectors per video.

    Args:
        method: The backbone with the adapter.
        task: The name of the collection, for the message.

    Raises:
        DataError: The method has a vector per frame and word.
    """
    if method.video_width != method.spec.embed_dim:
        raise DataError(
            "the method keeps a vector per frame and word, and here a video has one",
            where=f"adapter of {task}",
            found=method.name,
            expected="a method without late",
            cure="choose another adapter, or train the method without late",
        )
