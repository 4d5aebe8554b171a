"""A corpus of files that a decoder must survive: intact, damaged and hostile ones, and files that are no videos.

    PYTHONPATH=.:tests python tests/ingest/corpus.py FOLDER

writes them into FOLDER and prints the result of each.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from counted import HEIGHT, WIDTH, picture_of, remux, write_counted
from numpy.typing import NDArray
from PIL import Image
from video_files import write_audio_mp4

FRAMES = 60
DECODED = ""

# The accepted results of a damaged header.
HEADER = frozenset(
    {DECODED, "unreadable", "no_video_stream", "no_frames", "truncated", "decode_error", "out_of_memory"}
)
PAYLOAD = frozenset({DECODED, "decode_error", "damaged"})
CUT = frozenset({"unreadable", "no_video_stream", "no_frames", "truncated"})

# A field of a header, its offset after the box's name, and the absurd size, duration or count to write there.
ABSURD = {
    "tkhd-size": (b"tkhd", 76, struct.pack(">II", 0xFFFF0000, 0xFFFF0000)),
    "mvhd-duration": (b"mvhd", 16, struct.pack(">I", 0xFFFFFFFF)),
    "mvhd-timescale": (b"mvhd", 12, struct.pack(">I", 0)),
    "mdhd-timescale": (b"mdhd", 12, struct.pack(">II", 1, 0xFFFFFFFF)),
    "stsd-size": (b"avc1", 24, struct.pack(">HH", 0xFFFF, 0xFFFF)),
    "stts-count": (b"stts", 4, struct.pack(">I", 0x7FFFFFFF)),
    "stsz-count": (b"stsz", 8, struct.pack(">I", 0x7FFFFFFF)),
    "stsz-size": (b"stsz", 12, b"\x7f\xff\xff\xff" * 3),
    "stco-offset": (b"stco", 8, b"\xff" * 4),
}

NAMES = ["line\nend", "quote'\" $(x) `y`;&|", "-n", "naïve 猫", "%s%n", "clip:2", "file:x", "concat:a|b", "n" * 251]


@dataclass(frozen=True)
class Case:
    """A file and its accepted results: reasons of the ledger, or :data:`DECODED`."""

    family: str
    path: Path
    expected: frozenset[str]


def make_corpus(folder: Path) -> list[Case]:
    """Writes every file of the corpus, always the same bytes, into one folder per family."""
    cases = []
    for family, make in FAMILIES.items():
        (folder / family).mkdir(parents=True, exist_ok=True)
        for path, expected in make(folder / family):
            cases.append(Case(family, path, frozenset({expected}) if isinstance(expected, str) else expected))
    return cases


Files = Iterator[tuple[Path, str | frozenset[str]]]


def noisy() -> Iterator[NDArray[np.uint8]]:
    """Yields frames with noise, so that the file has more picture than header to damage."""
    random_numbers = np.random.default_rng(0)
    for number in range(FRAMES):
        noise = random_numbers.integers(0, 24, (HEIGHT, WIDTH, 1), np.uint8)
        yield picture_of(number) + noise


def source(folder: Path, header_first: bool) -> bytes:
    """Returns an ordinary MP4 with its header (moov) before or after the pictures."""
    path = folder / "source.mp4"
    write_counted(path, pictures=noisy(), muxer={"movflags": "faststart"} if header_first else None)
    content = path.read_bytes()
    path.unlink()
    return content


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def whole(folder: Path) -> Files:
    b_frames = {"bf": "3", "preset": "fast", "sc_threshold": "0"}
    yield write_counted(folder / "plain.mp4"), DECODED
    yield write_counted(folder / "b-frames.mp4", options=b_frames), DECODED
    yield write_counted(folder / "one-frame.mp4", frames=1), DECODED
    yield write_counted(folder / "variable.mkv", times=lambda n: 40 * n + 13 * (n % 3)), DECODED
    yield write_counted(folder / "turned.mp4", rotation=90), DECODED
    yield write_counted(folder / "odd.mp4", width=161, height=97, pixels="yuv444p"), DECODED
    yield write_counted(folder / "tiny.mp4", width=16, height=16), DECODED
    yield write_counted(folder / "b-frames.avi", options=b_frames), DECODED
    yield write_counted(folder / "stream.ts", options=b_frames), DECODED
    yield remux(folder / "stream.ts", folder / "begun-late.ts", drop=5), DECODED
    yield write_counted(folder / "bare.mp4", format="h264"), DECODED
    yield write_hidden_start(folder / "hidden-start.mp4"), DECODED


def write_hidden_start(path: Path) -> Path:
    """Writes a cut without re-encoding, as many tools do. An edit list hides the frames between key frame and cut.

    decord 0.6.0 never returns if it is asked for 12 evenly spaced frames with both ends.
    """
    options = {"g": "250", "sc_threshold": "0", "preset": "medium"}
    uncut = write_counted(path.with_suffix(".uncut"), frames=458, options=options, format="mp4")
    cut = remux(uncut, path, shift=156, muxer={"avoid_negative_ts": "disabled", "use_editlist": "1"})
    uncut.unlink()
    return cut


def truncated(folder: Path) -> Files:
    """Truncates files at many points, with the header at either end."""
    content = source(folder, header_first=False)
    for percent in (1, 10, 25, 50, 75, 90, 99):
        yield write(folder / f"header-last-{percent}.mp4", content[: len(content) * percent // 100]), "unreadable"
    content = source(folder, header_first=True)
    pictures = content.index(b"mdat") + 4
    for percent in (5, 50, 95):
        yield write(folder / f"in-header-{percent}.mp4", content[: pictures * percent // 100]), CUT
    for percent in (0, 10, 25, 50, 75, 96, 99):
        end = pictures + (len(content) - pictures) * percent // 100
        expected = DECODED if percent > 90 else "truncated"
        yield write(folder / f"header-first-{percent}.mp4", content[:end]), expected
    yield write(folder / "no-header.mp4", content[: content.index(b"moov") - 4] + content[pictures - 8 :]), "unreadable"


def flipped(folder: Path) -> Files:
    """Flips one to a thousand bits, anywhere in the pictures, or in the header."""
    content = source(folder, header_first=True)
    pictures = content.index(b"mdat") + 4
    for seed, (count, place) in enumerate([(n, p) for n in (1, 5, 30, 200, 1000) for p in ("pictures", "header")] * 3):
        numbers = random.Random(seed)
        damaged = bytearray(content)
        start, end = (pictures, len(content)) if place == "pictures" else (0, pictures)
        for _ in range(count):
            damaged[numbers.randrange(start, end)] ^= 1 << numbers.randrange(8)
        yield write(folder / f"{place}-{count}-{seed}.mp4", bytes(damaged)), PAYLOAD if place == "pictures" else HEADER


def absurd(folder: Path) -> Files:
    content = source(folder, header_first=True)
    for name, (box, offset, value) in ABSURD.items():
        start = content.index(box) + len(box) + offset
        yield write(folder / f"{name}.mp4", content[:start] + value + content[start + len(value) :]), HEADER


def named(folder: Path) -> Files:
    content = source(folder, header_first=True)
    for name in NAMES:
        yield write(folder / f"{name}.mp4", content), DECODED
    not_utf8 = Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.mp4"))
    yield write(not_utf8, content), DECODED
    yield folder / ("n" * 300), "unreadable"


def no_video(folder: Path) -> Files:
    yield write(folder / "empty.mp4", b""), "empty_file"
    yield write(folder / "text.mp4", b"<html><body>404</body></html>"), "unreadable"
    yield write(folder / "noise.mp4", random.Random(0).randbytes(50_000)), "unreadable"
    yield write(folder / "zeros.mp4", bytes(50_000)), "unreadable"
    # Both name another video in their folder. It must not be opened instead.
    write_counted(folder / "other.mp4")
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.mp4\n#EXT-X-ENDLIST\n"
    yield write(folder / "playlist.mp4", playlist), "unreadable"
    yield write(folder / "list.mp4", b"ffconcat version 1.0\nfile other.mp4\n"), "unsupported"
    Image.fromarray(picture_of(5)).save(folder / "picture.mp4", format="png")
    yield folder / "picture.mp4", "unsupported"
    write_audio_mp4(folder / "audio.mp4")
    yield folder / "audio.mp4", "no_video_stream"
    (folder / "folder.mp4").mkdir(exist_ok=True)
    yield folder / "folder.mp4", "not_regular_file"
    if not (folder / "pipe.mp4").exists():
        os.mkfifo(folder / "pipe.mp4")
    yield folder / "pipe.mp4", "not_regular_file"
    (folder / "dangling.mp4").unlink(missing_ok=True)
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    yield folder / "dangling.mp4", "missing_file"
    yield folder / "absent.mp4", "missing_file"
    yield folder / "text.mp4" / "below.mp4", "missing_file"


FAMILIES: dict[str, Callable[[Path], Files]] = {
    "whole": whole,
    "truncated": truncated,
    "flipped": flipped,
    "absurd": absurd,
    "named": named,
    "no_video": no_video,
}


def main(folder: Path) -> None:
    from components.ingest.decoders import DECODERS
    from components.ingest.isolation import DecodeProcess, Recipe

    with DecodeProcess(Recipe(DECODERS.target("auto"), "uniform", 12, 96, 95), time_limit_seconds=30) as process:
        for case in make_corpus(folder):
            outcome = process.decode(str(case.path), None, None)
            what = outcome.row.get("decoder") or f"{outcome.reason} {outcome.detail}"
            print(f"{case.family:10} {case.path.name!r:40.40} {what}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
