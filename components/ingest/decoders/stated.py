"""The length that a file's header states, for containers that state one: Matroska and AVI."""

from __future__ import annotations

EBML_HEADER, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
HEAD_BYTES = 4096


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
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        # A writer that cannot go back leaves a 0 or a -1.
        return None if head[4:8] in (bytes(4), b"\xff" * 4) else 8 + int.from_bytes(head[4:8], "little")
    if head.startswith(EBML_HEADER):
        return _segment_end(head)
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
