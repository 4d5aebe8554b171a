"""Where the windows of one file wait until the whole file is decoded: on a disk, since there may be thousands."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Window:
    """A window of a long file.

    Args:
        start_seconds, end_seconds: Where it is in the file.
        row: Columns of the frame store, without ``video_id``.
    """

    start_seconds: float
    end_seconds: float
    row: Mapping[str, Any]


class Spool:
    """Windows in a temporary file without a name, which ends with the process. A context manager.

    Args:
        folder: A folder of the disk to use.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def clear(self) -> None:
        """Forgets all windows."""
        self._file.seek(0)
        self._file.truncate()

    def add(self, header: Mapping[str, Any], jpegs: Sequence[bytes]) -> None:
        """Appends a window as the decoding process sends it. One without a span means that it starts again.

        Raises:
            OSError: The disk is full.
        """
        if header["window"] is None:
            self.clear()
            return
        line = json.dumps({**header, "sizes": [len(jpeg) for jpeg in jpegs]})
        self._file.write(line.encode() + b"\n" + b"".join(jpegs))

    def windows(self, common: Mapping[str, Any]) -> Iterator[Window]:
        """Reads the windows, in the order in which they came.

        Args:
            common: The row of the whole file, whose columns a window takes if it has no own value.
        """
        self._file.seek(0)
        while line := self._file.readline():
            header = json.loads(line)
            start, end = header.pop("window")
            frames = [self._file.read(size) for size in header.pop("sizes")]
            yield Window(start, end, {**common, **header, "frames": frames})
