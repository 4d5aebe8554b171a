"""What the tracking store has not received, because it was away: kept in a file and sent later.

A training takes hours and its adapter does not depend on the store. So a server that stops in the middle delays the
metrics and loses nothing.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from components.layout import Layout

logger = logging.getLogger(__name__)

# As for records, but a metric may be infinite or NaN.
CHECKED = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=CHECKED)
class Point:
    """One value of one metric.

    Attributes:
        name: The metric.
        value: Its value.
        step: The step.
        time: When it was measured, in milliseconds since 1970.
    """

    name: str
    value: float
    step: int
    time: int


@dataclass(frozen=True, config=CHECKED)
class End:
    """The end of a run.

    Attributes:
        status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        time: When it ended, in milliseconds since 1970.
    """

    status: str
    time: int


class Outbox:
    """The file of one run. It exists only while it holds something.

    Args:
        root: The project's folder.
        run_id: The run's id in MLflow.
    """

    def __init__(self, root: Path, run_id: str) -> None:
        self.file = Layout(root).tracking_work / f"{run_id}.jsonl"

    def add(self, *entries: Point | End) -> None:
        """Append entries, a line each."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a+b") as stream:
            if stream.tell() and self.file.read_bytes()[-1:] != b"\n":
                stream.write(b"\n")  # after a torn line
            stream.writelines((json.dumps(asdict(entry)) + "\n").encode() for entry in entries)

    def read(self) -> list[Point | End]:
        """All entries in the order of their arrival. A line that a kill has torn is skipped, with a warning."""
        if not self.file.exists():
            return []
        found: list[Point | End] = []
        for number, line in enumerate(self.file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            try:
                tree = json.loads(line)
                found.append(End(**tree) if "status" in tree else Point(**tree))
            except (TypeError, ValueError):
                logger.warning("%s:%d: skipped, not a whole entry: %.80r", self.file, number, line)
        return found

    def clear(self) -> None:
        """Delete the file, after the store has everything."""
        self.file.unlink(missing_ok=True)


def finished_runs(root: Path) -> list[str]:
    """Ids of the runs that have ended and whose store has not received everything."""
    files = sorted(Layout(root).tracking_work.glob("*.jsonl"))
    return [file.stem for file in files if any(isinstance(entry, End) for entry in Outbox(root, file.stem).read())]
