"""Pictures and videos that are asked with: from a file to a vector, on the way that the videos of a store took."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from components.errors import DataError
from components.frames import schema
from components.frames.card import StoreSettings
from components.frames.jpeg import decode_frames, encode_frames
from components.ingest import sources
from components.ingest.checks import MAX_ASPECT, check_file
from components.ingest.decoders import DECODERS
from components.ingest.decoders.base import DecodeError
from components.ingest.isolation import DecodeProcess, Recipe
from components.ingest.resize import resize_frames
from components.methods.base import Method
from components.precision import numerics

# Stores made before the setting existed have full chroma resolution.
CHROMA = 444


def picture_frames(location: str, settings: StoreSettings) -> list[bytes]:
    """A picture as the only frame of a video, in the store's size and JPEG quality.

    Args:
        location: The path or URI of the picture. Of an animation, the first picture counts.
        settings: The settings of the frame store that is searched.

    Raises:
        DataError: There is no such file, or it is no picture that can be read.
    """
    try:
        with sources.local_file(location) as path:
            check_file(path)
            pixels = _pixels(path)
    except (DecodeError, sources.FetchError) as failure:
        raise DataError(f"the picture cannot be read: {why(failure)}", where=location) from None
    except Exception as error:  # Pillow's parsers raise errors of any kind
        raise DataError(
            f"the picture cannot be read ({type(error).__name__})",
            where=location,
            expected="a file that Pillow reads, such as JPEG, PNG or WebP",
            cure="a film is asked with --video",
        ) from None
    frames = resize_frames([pixels], settings.size)
    return encode_frames(frames, settings.quality, settings.chroma or CHROMA)


def _pixels(path: str) -> np.ndarray:
    """``uint8[H, W, 3]``, turned as its EXIF says.

    Raises:
        DecodeError: One side is many times the other.
        Exception: What Pillow raises.
    """
    with warnings.catch_warnings():
        # A picture that would fill the memory is a warning to Pillow.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            width, height = picture.size
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise DecodeError("extreme_shape", f"{width} x {height}")
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def video_frames(location: str, settings: StoreSettings) -> list[bytes]:
    """The frames of a video file, decoded in a child process with the store's settings and limits.

    Args:
        location: The path or URI of the file.
        settings: The settings of the frame store that is searched.

    Raises:
        DataError: The file cannot be decoded, or the decoder does not load.
        ConfigError: The store's decoder is not installed.
    """
    target = DECODERS.target(settings.decoder, where="the frame store's decoder")
    recipe = Recipe(
        *(target, settings.sampling, settings.frames, settings.size, settings.quality, settings.chroma or CHROMA)
    )
    try:
        with (
            sources.local_file(location) as path,
            DecodeProcess(recipe, settings.time_limit_seconds, settings.memory_limit_mib) as process,
        ):
            outcome = process.decode(path, None, None)
    except sources.FetchError as failure:
        raise DataError(f"the video cannot be read: {why(failure)}", where=location) from None
    if outcome.reason is not None:
        found = why(DecodeError(outcome.reason, outcome.detail))
        raise DataError(f"the video cannot be read: {found}", where=location)
    frames: list[bytes] = outcome.row["frames"]
    return frames


def why(failure: DecodeError | sources.FetchError) -> str:
    """Why a file gives nothing, in words."""
    detail = f" ({failure.detail})" if failure.detail else ""
    return schema.REASONS[failure.reason].replace("the manifest's uri", "this path") + detail


@torch.inference_mode()
def vector_of(method: Method, jpegs: Sequence[bytes]) -> Tensor:
    """The vector of a video's frames, as the index would hold it: ``float32[D]``, L2-normalised.

    Args:
        method: The method, on the device that encodes.
        jpegs: At most ``method.frames`` frames. Missing ones are padded, and the mask leaves them out.
    """
    device = next(method.backbone.parameters()).device
    shown = method.backbone.resize(torch.from_numpy(decode_frames(jpegs)).permute(0, 3, 1, 2))
    frames = torch.zeros(1, method.frames, *shown.shape[1:], dtype=torch.uint8)
    frames[0, : len(jpegs)] = shown
    mask = torch.arange(method.frames)[None] < len(jpegs)
    with numerics("float32"):
        return method.encode_video(method.backbone.normalize(frames.to(device)), mask.to(device))[0].float()
