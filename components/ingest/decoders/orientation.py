"""How a frame is turned and mirrored, by the display matrix of its file."""

from __future__ import annotations

import struct

import av
import numpy as np
from av.sidedata.sidedata import SideData, SideDataContainer
from numpy.typing import NDArray

# The rows of the matrix are (a, b, u), (c, d, v) and (x, y, w). A pixel at (p, q) is shown at (a p + c q, b p + d q).
MATRIX = struct.Struct("=9i")


def linear_part(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
    """Returns a, b, c and d of a frame's display matrix. None if it has no matrix, or one that maps to a line."""
    data = _matrix(frame)
    if not isinstance(data, SideData) or data.buffer_size < MATRIX.size:
        return None
    a, b, _, c, d, *_ = MATRIX.unpack_from(bytes(data))
    return None if a * d == b * c else (a, b, c, d)


def _matrix(frame: av.VideoFrame) -> SideData | None:
    # `frame.side_data` and the frame would refer to each other, and keep its pixels until Python looks for such cycles.
    return SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]


def is_upright_or_turned(frame: av.VideoFrame) -> bool:
    """Whether an angle tells how the frame is shown. It does not if the frame is mirrored, or its matrix is no map."""
    if _matrix(frame) is None:
        return True
    matrix = linear_part(frame)
    return matrix is not None and matrix[0] * matrix[3] > matrix[1] * matrix[2]


def as_shown(frame: av.VideoFrame, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turns and mirrors a decoded picture as its file asks, to the nearest quarter turn.

    Args:
        frame: The frame, for its matrix.
        picture: ``uint8[H, W, 3]``, the frame's pixels.

    Returns:
        ``uint8[H, W, 3]`` or ``uint8[W, H, 3]``.
    """
    if (matrix := linear_part(frame)) is None:
        return picture
    a, b, c, d = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        across, down = a, d
    else:
        picture = picture.transpose(1, 0, 2)
        across, down = c, b
    if across < 0:
        picture = picture[:, ::-1]
    if down < 0:
        picture = picture[::-1]
    return np.ascontiguousarray(picture)
