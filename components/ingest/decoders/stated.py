"""The length that a file's header states, for containers that state one: Matroska, AVI, ASF, FLV and fragmented MP4.

Transport and program streams, Ogg and GIF state none. A file of these that is cut off looks like a shorter one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

EBML_HEADER, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_IS_LIVE = 1
# A key of FLV's metadata with the mark of a number.
FLV_LENGTH = b"\x00\x08filesize\x00"
HEAD_BYTES = 4096

# An MP4 of so many boxes is no video.
MOST_BOXES = 1_000_000


def stated_bytes(path: str) -> int | None:
    """Reads how long a file is, by its header.

    Returns:
        The position in bytes at which the container ends. More may follow, as in large AVI files. None if the header
        does not tell: in other containers, and in recordings that were never finished.

    Raises:
        OSError: The file cannot be read.
    """
    with open(path, "rb") as stream:
        head = stream.read(HEAD_BYTES)
        if head[4:8] == b"ftyp":
            return _last_fragment_end(stream)
    return next((end(head) for start, end in ENDS.items() if head.startswith(start)), None)


def _avi_end(head: bytes) -> int | None:
    # A writer that cannot go back leaves a 0 or a -1.
    if head[8:12] != b"AVI " or head[4:8] in (bytes(4), b"\xff" * 4):
        return None
    return 8 + int.from_bytes(head[4:8], "little")


def _asf_end(head: bytes) -> int | None:
    """The length in the object of the file's properties. Its flags say whether it means something."""
    place = head.find(ASF_FILE)
    properties = head[place + 40 : place + 92]
    if place < 0 or len(properties) < 52:
        return None
    (length,), (flags,) = struct.unpack_from("<Q", properties), struct.unpack_from("<I", properties, 48)
    return None if flags & ASF_IS_LIVE else length or None


def _flv_end(head: bytes) -> int | None:
    place = head.find(FLV_LENGTH)
    number = head[place + len(FLV_LENGTH) :][:8]
    if place < 0 or len(number) < 8:
        return None
    (length,) = struct.unpack(">d", number)
    # A recorder that cannot go back leaves a 0.
    return int(length) if 0 < length < 2**63 else None


def _last_fragment_end(stream: BinaryIO) -> int | None:
    """The end of the last box with pictures. Only in fragmented files: in the others, the index is compared."""
    total = os.fstat(stream.fileno()).st_size
    place, is_fragmented = 0, False
    for _ in range(MOST_BOXES):
        stream.seek(place)
        box = stream.read(16)
        if len(box) < 8:
            return None
        size, kind = int.from_bytes(box[:4], "big"), box[4:8]
        if size == 1:
            size = int.from_bytes(box[8:16], "big")
        if size < 8:
            return None  # up to the end of the file, or no box
        is_fragmented |= kind == b"moof"
        place += size
        if place >= total:
            return place if is_fragmented and kind in (b"moof", b"mdat") else None
    return None


def _segment_end(head: bytes) -> int | None:
    length, begin = _number(head, len(EBML_HEADER))
    if length is None or head[begin + length : begin + length + len(SEGMENT)] != SEGMENT:
        return None
    size, begin = _number(head, begin + length + len(SEGMENT))
    return None if size is None else begin + size


def _number(head: bytes, place: int) -> tuple[int | None, int]:
    """Reads an EBML number, whose first set bit tells its length.

    Returns:
        The number, or None where it says "unknown" or the bytes end, and the place after it.
    """
    if place >= len(head) or head[place] == 0:
        return None, place
    length = 9 - head[place].bit_length()
    unknown = (1 << 7 * length) - 1
    value = int.from_bytes(head[place : place + length], "big") & unknown
    return (None if value == unknown else value), place + length


# By the first bytes of a file.
ENDS: dict[bytes, Callable[[bytes], int | None]] = {
    EBML_HEADER: _segment_end,
    b"RIFF": _avi_end,
    ASF_HEADER: _asf_end,
    b"FLV": _flv_end,
}
