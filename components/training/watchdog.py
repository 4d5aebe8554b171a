"""A process that gets stuck ends the training with an error that names rank, step and place, instead of a hang.

Each rank says what it is at (:func:`components.heartbeat.mark`). Once one has been at the same thing for too long, all ranks tell each
other, through the process group's store, where they stand. Whoever does not wait in a collective, or does not answer at
all, is to blame. Nothing can stop a thread that hangs in C, so the overdue ranks then report and end their processes.

On GPUs a collective returns at once and the wait shows wherever its result is first needed: there all ranks are named.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from components import heartbeat
from components.errors import TrainingError
from components.processes import rank_and_world

logger = logging.getLogger(__name__)

# How long the ranks have to say where they stand.
GRACE_SECONDS = 5.0
# How much later than the watchdog a collective itself may give up: it could not say whom it waits for.
COLLECTIVE_SECONDS = 4 * GRACE_SECONDS
POLL_SECONDS = 0.5
SHOWN_FRAMES = 4
# Of a process that the watchdog ends.
EXIT_STATUS = 70
STDERR = 2

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep

# A frame as file, line and function, and a stack of them, innermost first.
Frame = tuple[str, int, str]


class Watchdog:
    """Watches the calling thread for the length of a ``with`` block, from the first :func:`components.heartbeat.mark` on.

    Args:
        seconds: how long one thing may take.
        report: gets the error's text in each overdue process, before that ends; None: it only goes to stderr.
    """

    def __init__(self, seconds: float, report: Callable[[str], object] | None = None) -> None:
        self.seconds = seconds
        self.report = report
        self.rank, self.world = rank_and_world()
        self._label, self._since = "", 0.0
        self._watched = threading.get_ident()
        self._done = threading.Event()
        # Has no name, so nothing is left of it, and yet other processes of this machine can read it.
        self._stacks = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (closed in __exit__)
        self._talk = _Talk(self) if self.world > 1 else None
        self._clock = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        heartbeat.listen(self.mark)
        self._clock.start()
        if self._talk:
            self._talk.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        heartbeat.listen(None)
        faulthandler.cancel_dump_traceback_later()
        self._done.set()
        self._clock.join()
        if self._talk:
            self._talk.end()
        self._stacks.close()

    def mark(self, label: str | None = None) -> None:
        """See :func:`components.heartbeat.mark`."""
        self._label, self._since = label or self._label, time.monotonic()
        # By a thread in C, which works even where the watched one never lets go of the interpreter's lock; the others
        # read the stack then. Where there are no others, the process has to end there.
        if self.world > 1:
            faulthandler.dump_traceback_later(self.seconds, file=self._stacks)
        else:
            faulthandler.dump_traceback_later(self.seconds + 2 * GRACE_SECONDS, exit=True, file=STDERR)

    def state(self) -> dict[str, Any]:
        """What this rank is at, whether it waits for others, and the place in the code; JSON-able."""
        frames = list(_walk(sys._current_frames().get(self._watched)))
        waits = any(frame.f_globals.get("__name__", "").startswith("torch.distributed") for frame in frames)
        stack = [(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name) for frame in frames]
        return {"label": self._label, "waits": waits, "place": place(stack)}

    def address(self) -> dict[str, Any]:
        """Where other processes of this machine find this one and its stacks; JSON-able."""
        stacks = f"/proc/{os.getpid()}/fd/{self._stacks.fileno()}"
        return {"host": socket.gethostname(), "pid": os.getpid(), "stacks": stacks, "thread": self._watched}

    def _watch(self) -> None:
        while not self._done.wait(min(POLL_SECONDS, self.seconds / 4)):
            if self._since and time.monotonic() - self._since >= self.seconds:
                self._end()

    def _end(self) -> None:
        """Tells where everybody stands; ends this process and those on this machine that do not answer."""
        states: dict[int, dict[str, Any]] = {self.rank: self.state()}
        silent: dict[int, dict[str, Any]] = {}
        if self._talk:
            others, silent = self._talk.ask(states[self.rank])
            states.update(others)
        blamed = [rank for rank, state in states.items() if state["label"] and not state["waits"]]
        texts = [
            f"rank {rank} did not finish {state['label']} within {self.seconds:g} s"
            f"{' and does not answer' if rank in silent else ''}, at {state['place']}"
            for rank, state in sorted({**states, **silent}.items())
            if rank in silent or rank in blamed or (state["label"] and not (silent or blamed))
        ]
        message = str(TrainingError("; ".join(texts), cure="execution.timeout_seconds is the limit"))
        faulthandler.dump_traceback(STDERR)
        os.write(STDERR, f"error: {message}\n".encode())
        if self.report:
            # Whom it goes to may hang too.
            teller = threading.Thread(target=self.report, args=(message,), daemon=True)
            teller.start()
            teller.join(GRACE_SECONDS)
        for state in silent.values():
            if state["host"] == socket.gethostname():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(state["pid"], signal.SIGKILL)
        os._exit(EXIT_STATUS)


class _Talk:
    """What the ranks tell each other; in a thread of its own, since a store whose keeper hangs never answers."""

    def __init__(self, watchdog: Watchdog) -> None:
        self.watchdog = watchdog
        self._done = threading.Event()
        self._asking = threading.Event()
        self._own: dict[str, Any] = {}
        self._labels: dict[int, str] = {}
        self._addresses: dict[int, dict[str, Any]] = {}
        self._states: dict[int, dict[str, Any]] = {}
        self._gone = False
        self._thread = threading.Thread(target=self._run, name="watchdog-talk", daemon=True)
        self.start = self._thread.start

    def end(self) -> None:
        """Tells the others that this rank has finished."""
        self._done.set()
        self._thread.join(GRACE_SECONDS)

    def ask(self, own: dict[str, Any]) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]]:
        """The states of those who answer in time, and what is known of the others."""
        others = set(range(self.watchdog.world)) - {self.watchdog.rank}
        self._own = own
        self._asking.set()
        deadline = time.monotonic() + GRACE_SECONDS
        while not self._gone and self._states.keys() != others and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 4)
        if self._gone:
            # Its keeper knows more and has told it.
            return dict(self._states), {}
        silent = {rank: self._addresses[rank] for rank in others - self._states.keys() if rank in self._addresses}
        for rank, state in silent.items():
            state["label"] = self._labels.get(rank, own["label"])
            same = state["host"] == socket.gethostname()
            state["place"] = place(foreign_stack(state["stacks"], state["thread"])) if same else "an unknown place"
        return dict(self._states), silent

    def _run(self) -> None:
        rank, world = self.watchdog.rank, self.watchdog.world
        try:
            # A connection of its own: the group may wait on its.
            store = dist.PrefixStore("watchdog", _get_default_store().clone())
            store.set(f"address-{rank}", json.dumps(self.watchdog.address()))
            self._addresses = {r: json.loads(store.get(f"address-{r}")) for r in range(world) if r != rank}
            while not self._done.wait(min(POLL_SECONDS, self.watchdog.seconds / 8)):
                store.set(f"label-{rank}", self.watchdog.state()["label"])
                if self._asking.is_set():
                    store.set("asked", "")
                    self._collect(store)
                elif store.check(["asked"]):
                    store.set(f"state-{rank}", json.dumps(self.watchdog.state()))
            store.set(f"state-{rank}", json.dumps({"label": "", "waits": False, "place": ""}))
        except RuntimeError as error:
            self._gone = True
            if not self._done.is_set():
                # The rank that keeps the store is gone, which the next collective reports.
                logger.warning("rank %d cannot ask the others any more: %s", rank, error)

    def _collect(self, store: dist.Store) -> None:
        store.set(f"state-{self.watchdog.rank}", json.dumps(self._own))
        for rank in self._addresses:
            if store.check([f"label-{rank}"]):
                self._labels[rank] = store.get(f"label-{rank}").decode()
            if rank not in self._states and store.check([f"state-{rank}"]):
                self._states[rank] = json.loads(store.get(f"state-{rank}"))


def _walk(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def place(stack: Iterable[Frame]) -> str:
    """The innermost frame, and the innermost ones of this package."""
    frames = list(stack)
    own = [frame for frame in frames[1:] if frame[0].startswith(_PACKAGE)][: SHOWN_FRAMES - 1]
    shown = [f"{file.removeprefix(_PACKAGE)}:{line} {name}" for file, line, name in frames[:1] + own]
    return " < ".join(shown) or "an unknown place"


def foreign_stack(stacks: str, thread: int) -> list[Frame]:
    """The last stack of a thread that faulthandler wrote to another process's file; empty where there is none."""
    try:
        text = Path(stacks).read_text(encoding="utf-8", errors="replace")
    except OSError:
        # Not on Linux, or the process has just gone: then there is no stack to show, and the message says so.
        return []
    sections = [section for section in re.split(r"\n\s*\n|(?=Thread 0x)", text) if f"0x{thread:016x}" in section]
    found = re.findall(r'File "(.*)", line (\d+) in (.*)', sections[-1]) if sections else []
    return [(file, int(line), name) for file, line, name in found]
