"""A process that gets stuck ends the training with an error that names rank, step and place, instead of a hang.

Each rank reports what it is doing (:func:`components.heartbeat.mark`). When one thing takes too long, the ranks
exchange their positions through the process group's store. A rank that does not wait in a collective is to blame, and
so is a rank that does not answer. Nothing can stop a thread that hangs in C, so the overdue ranks report and end their
processes.

A rank that cannot answer (it holds Python's lock in C, or it is stopped) is named with its last label. The stack of
such a process is in its log, where faulthandler writes it from a thread in C.

On GPUs a collective returns at once, and the wait shows wherever its result is first needed. There all ranks are named.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, TracebackType

import torch.distributed as dist

from components import heartbeat
from components.errors import TrainingError
from components.processes import rank_and_world

logger = logging.getLogger(__name__)

# How long the ranks have to answer.
GRACE_SECONDS = 5.0
# How much later than the watchdog a collective itself may give up. Its error could not name the rank it waits for.
COLLECTIVE_SECONDS = 4 * GRACE_SECONDS
POLL_SECONDS = 0.5
SHOWN_FRAMES = 4
# The exit status of a process that the watchdog ends.
EXIT_STATUS = 70
STDERR = 2

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep

# File, line and function.
Frame = tuple[str, int, str]


@dataclass(frozen=True)
class Position:
    """What a rank is doing.

    Attributes:
        label: Its last label; empty before the first one and after the end.
        waits: Whether it waits for other ranks.
        place: The place in the code.
    """

    label: str = ""
    waits: bool = False
    place: str = ""


@dataclass(frozen=True)
class Address:
    """Where a rank's process runs."""

    host: str
    pid: int

    @classmethod
    def here(cls) -> Address:
        """The address of this process."""
        return cls(socket.gethostname(), os.getpid())


class Watchdog:
    """Watches the calling thread for the length of a ``with`` block, from the first :func:`heartbeat.mark` on.

    Args:
        seconds: How long one thing may take.
        report: Receives the error's text in each overdue process before that process ends. Without it, the error only
            goes to stderr.
    """

    def __init__(self, seconds: float, report: Callable[[str], object] | None = None) -> None:
        self.seconds = seconds
        self.report = report
        self.rank, world = rank_and_world()
        self._label, self._since = "", 0.0
        self._watched = threading.get_ident()
        self._done = threading.Event()
        self._others = _Others(self.rank, world, self.position, seconds) if world > 1 else None
        self._clock = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        heartbeat.listen(self.mark)
        self._clock.start()
        if self._others:
            self._others.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        heartbeat.listen(None)
        faulthandler.cancel_dump_traceback_later()
        self._done.set()
        self._clock.join()
        if self._others:
            self._others.end()

    def mark(self, label: str | None = None) -> None:
        """See :func:`components.heartbeat.mark`."""
        self._label, self._since = label or self._label, time.monotonic()
        # This thread is in C, so it works even while the watched one holds Python's lock. A process without others has
        # nobody to end it, so it ends itself.
        if self._others:
            faulthandler.dump_traceback_later(self.seconds, file=STDERR)
        else:
            faulthandler.dump_traceback_later(self.seconds + 2 * GRACE_SECONDS, exit=True, file=STDERR)

    def position(self) -> Position:
        """What the watched thread is doing."""
        frames = list(_walk(sys._current_frames().get(self._watched)))
        waits = any(frame.f_globals.get("__name__", "").startswith("torch.distributed") for frame in frames)
        stack = [(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name) for frame in frames]
        return Position(self._label, waits, place(stack))

    def _watch(self) -> None:
        while not self._done.wait(min(POLL_SECONDS, self.seconds / 4)):
            if self._since and time.monotonic() - self._since >= self.seconds:
                self._end()

    def _end(self) -> None:
        """Reports the ranks to blame. Ends this process, and those on this machine that do not answer."""
        positions = {self.rank: self.position()}
        silent: dict[int, tuple[str, Address]] = {}
        if self._others:
            answers, silent = self._others.ask(positions[self.rank])
            positions.update(answers)
        message = str(TrainingError(self._blame(positions, silent), cure="execution.timeout_seconds is the limit"))
        if not self._others:
            # In a group, the timer of mark has written it.
            faulthandler.dump_traceback(STDERR)
        os.write(STDERR, f"error: {message}\n".encode())
        if self.report:
            # The receiver may hang too.
            reporter = threading.Thread(target=self.report, args=(message,), daemon=True)
            reporter.start()
            reporter.join(GRACE_SECONDS)
        for _, address in silent.values():
            if address.host == socket.gethostname():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(address.pid, signal.SIGKILL)
        os._exit(EXIT_STATUS)

    def _blame(self, positions: dict[int, Position], silent: dict[int, tuple[str, Address]]) -> str:
        """A sentence per silent rank and per rank that waits for no other; per unfinished rank if there is neither."""
        busy = {rank: position for rank, position in positions.items() if position.label}
        to_blame = {rank: position for rank, position in busy.items() if not position.waits}
        if not to_blame and not silent:
            to_blame = busy
        late = f"within {self.seconds:g} s"
        texts = {
            rank: f"rank {rank} did not finish {position.label} {late}, at {position.place}"
            for rank, position in to_blame.items()
        }
        for rank, (label, _) in silent.items():
            texts[rank] = f"rank {rank} did not finish {label} {late} and does not answer"
        return "; ".join(texts[rank] for rank in sorted(texts))


class _Others:
    """Exchanges positions with the other ranks. A store whose keeper hangs never answers, so this has its own thread.

    Args:
        rank, world: This rank and the number of ranks.
        position: Gives this rank's position.
        seconds: The watchdog's limit.
    """

    def __init__(self, rank: int, world: int, position: Callable[[], Position], seconds: float) -> None:
        self.rank, self.position = rank, position
        self.ranks = set(range(world)) - {rank}
        self.poll_seconds = min(POLL_SECONDS, seconds / 8)
        self._done = threading.Event()
        self._asking = threading.Event()
        self._local = Position()
        self._labels: dict[int, str] = {}
        self._addresses: dict[int, Address] = {}
        self._answers: dict[int, Position] = {}
        self._gone = False
        self._thread = threading.Thread(target=self._run, name="watchdog-others", daemon=True)
        self.start = self._thread.start

    def end(self) -> None:
        """Tells the others that this rank has finished."""
        self._done.set()
        self._thread.join(GRACE_SECONDS)

    def ask(self, local: Position) -> tuple[dict[int, Position], dict[int, tuple[str, Address]]]:
        """The positions of the ranks that answer in time, and the last label and address of the others."""
        self._local = local
        self._asking.set()
        deadline = time.monotonic() + GRACE_SECONDS
        while not self._gone and self._answers.keys() != self.ranks and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 4)
        answers = dict(self._answers)
        if self._gone:
            # The rank that keeps the store knew more, and has reported it.
            return answers, {}
        silent = (self.ranks - answers.keys()) & self._addresses.keys()
        return answers, {rank: (self._labels.get(rank, local.label), self._addresses[rank]) for rank in silent}

    def _run(self) -> None:
        try:
            # A separate connection, since the process group may wait on its connection.
            group = dist.group.WORLD
            assert group is not None
            store = dist.PrefixStore("watchdog", group.get_group_store().clone())
            store.set(f"address-{self.rank}", json.dumps(asdict(Address.here())))
            self._addresses = {rank: Address(**json.loads(store.get(f"address-{rank}"))) for rank in self.ranks}
            while not self._done.wait(self.poll_seconds):
                store.set(f"label-{self.rank}", self.position().label)
                if self._asking.is_set():
                    store.set("asked", "")
                    self._collect(store)
                elif store.check(["asked"]):
                    store.set(f"position-{self.rank}", json.dumps(asdict(self.position())))
            store.set(f"position-{self.rank}", json.dumps(asdict(Position())))
        except RuntimeError as error:
            self._gone = True
            if not self._done.is_set():
                # The rank that keeps the store is gone. The next collective reports that.
                logger.warning("rank %d cannot reach the other ranks any more: %s", self.rank, error)

    def _collect(self, store: dist.Store) -> None:
        store.set(f"position-{self.rank}", json.dumps(asdict(self._local)))
        for rank in self.ranks:
            if store.check([f"label-{rank}"]):
                self._labels[rank] = store.get(f"label-{rank}").decode()
            if rank not in self._answers and store.check([f"position-{rank}"]):
                self._answers[rank] = Position(**json.loads(store.get(f"position-{rank}")))


def _walk(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def place(stack: Iterable[Frame]) -> str:
    """The innermost frame of a stack, then the innermost frames of this package."""
    frames = list(stack)
    package = [frame for frame in frames[1:] if frame[0].startswith(_PACKAGE)][: SHOWN_FRAMES - 1]
    shown = [f"{file.removeprefix(_PACKAGE)}:{line} {name}" for file, line, name in frames[:1] + package]
    return " < ".join(shown) or "an unknown place"
