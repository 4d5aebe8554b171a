"""The decoding process: it reads requests from one pipe and answers with JPEG frames on another.

:mod:`components.ingest.isolation` starts it as ``python -m components.ingest.child``. It imports neither torch nor Ray
nor Arrow, since it starts again after every hang or crash.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from components.frames.jpeg import encode_frames
from components.ingest import pipe, sampling
from components.ingest.checks import check_decoded, check_file, check_span
from components.ingest.decoders.base import Choose, DecodedFrames, DecodeError, Decoder, decode_into
from components.ingest.resize import resize_frames
from components.ingest.windows import Emit, Span, WindowPlan

PR_SET_PDEATHSIG = 1

# Side in pixels of the pictures that the adaptive rule compares, a multiple of 16.
LOOK_SIDE = 64


def main(requests: int, answers: int, parent: int) -> None:
    """Answers requests until their pipe is closed.

    Args:
        requests, answers: The file descriptors of the pipes.
        parent: The supervisor's process id.
    """
    die_with(parent)
    first, _ = pipe.receive(requests)
    try:
        decoder = load_decoder(first["decoder"])
    except Exception as error:
        pipe.send(answers, {"ready": False, "error": f"{type(error).__name__}: {error}"})
        return
    pipe.send(answers, {"ready": True})

    def emit(span: Span | None, indices: Sequence[int], times: Sequence[float], jpegs: Sequence[bytes]) -> None:
        header = {"window": span, "timestamps_seconds": list(times), "frame_indices": list(indices)}
        pipe.send(answers, header, jpegs)

    while True:
        try:
            request, _ = pipe.receive(requests)
        except EOFError:
            return
        if request.get("hash"):
            pipe.send(answers, {"sha256": content_hash(request["path"])})
            continue
        header, blobs = answer(decoder, first, request, emit)
        pipe.send(answers, header, blobs)


def load_decoder(target: str) -> Decoder:
    """Imports a decoder.

    Args:
        target: ``"package.module:function"``.

    Raises:
        Exception: Whatever the import raises. AttributeError if the module lacks the name, TypeError if it is not a
            function.
    """
    module, _, name = target.partition(":")
    decoder: Decoder = getattr(importlib.import_module(module), name)
    if not callable(decoder):
        raise TypeError(f"{name} is not a function")
    return decoder


def die_with(parent: int) -> None:
    """Asks the kernel to kill this process when its supervisor dies. A hung decoder would never see a closed pipe."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # If the machine runs out of memory, the kernel should end this process. Some sandboxes forbid the write.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    if os.getppid() != parent:
        sys.exit(1)


def answer(
    decoder: Decoder, settings: dict[str, Any], request: dict[str, Any], emit: Emit
) -> tuple[dict[str, Any], list[bytes]]:
    """Returns one video's row and its frames, or the reason why there are none. Its windows go to ``emit`` before."""
    try:
        check_file(request["path"])
        choose = _choose(decoder, settings, request)
        if settings.get("windows") is not None:
            return _row_and_windows(decoder, settings, request, choose, emit)
        decoded = decoder(request["path"], choose)
        check_span(request["end_seconds"], decoded.duration_seconds)
        check_decoded(decoded)
        pictures = resize_frames(decoded.frames, settings["size"])
        row = {
            "timestamps_seconds": list(decoded.timestamps_seconds),
            "frame_indices": list(decoded.indices),
            **_columns(decoded, request["path"], pictures.shape[1:3], decoded.frames[0].shape[:2]),
        }
        return {"reason": None, "row": row}, encode_frames(pictures, settings["quality"], settings["chroma"])
    except DecodeError as failure:
        return {"reason": failure.reason, "detail": failure.detail}, []
    except MemoryError:
        return {"reason": "out_of_memory", "detail": "MemoryError"}, []
    except Exception as error:
        return {"reason": "decode_error", "detail": _name(type(error))}, []


def _name(kind: type[Exception]) -> str:
    """Names an exception. FFmpeg's PermissionError, for one, is not Python's: it means an encrypted file."""
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def content_hash(path: str) -> str | None:
    """Hashes a file, as hex SHA-256. None if it is not a regular file with content, or cannot be read."""
    try:
        check_file(path)
        return _sha256(path)
    except (DecodeError, OSError):
        return None


def _choose(decoder: Decoder, settings: dict[str, Any], request: dict[str, Any]) -> Choose:
    """Returns the function that picks the frames. The adaptive rule first looks at small pictures of many frames."""
    span = request["start_seconds"], request["end_seconds"]
    count, path = settings["frames"], request["path"]
    if settings["sampling"] != sampling.ADAPTIVE:
        return sampling.chooser(settings["sampling"], count, *span, seed=PurePath(path).stem)
    look = sampling.chooser("segment_center", count * sampling.CANDIDATES, *span)
    candidates = decoder(path, look, LOOK_SIDE)
    picked = sampling.most_different(np.stack(candidates.frames), count)
    wanted = [candidates.indices[index] for index in picked]
    return lambda times: wanted


def _row_and_windows(
    decoder: Decoder, settings: dict[str, Any], request: dict[str, Any], choose: Choose, emit: Emit
) -> tuple[dict[str, Any], list[bytes]]:
    path, span = request["path"], (request["start_seconds"], request["end_seconds"])
    plan = WindowPlan(settings, span, PurePath(path).stem, choose, emit)
    decoded = decode_into(decoder, path, plan, plan.take)
    check_span(request["end_seconds"], decoded.duration_seconds)
    check_decoded(decoded, plan.shape)
    plan.finish()
    row = {
        "timestamps_seconds": plan.source_times(),
        "frame_indices": plan.source.indices,
        **_columns(decoded, path, plan.stored_shape, plan.shape),
    }
    return {"reason": None, "row": row}, plan.source.jpegs


def _columns(
    decoded: DecodedFrames, path: str, stored: Sequence[int], source: Sequence[int]
) -> dict[str, int | float | str | None]:
    """What all rows of a file have in common. ``stored`` and ``source`` are heights and widths in pixels."""
    return {
        "width": stored[1],
        "height": stored[0],
        "source_width": source[1],
        "source_height": source[0],
        "source_frames": decoded.source_frames,
        "fps": decoded.fps,
        "duration_seconds": decoded.duration_seconds,
        "content_sha256": _sha256(path),
        "decoder": decoded.decoder,
        "corrupt_frames": decoded.corrupt_frames,
    }


def _sha256(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
