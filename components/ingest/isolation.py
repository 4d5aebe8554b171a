"""Decoding in a child process with limits: if a video hangs, crashes or bloats the decoder, only that video is lost.

Threads and signals do not help, since a hung C library returns to neither. A process pool of the standard library
breaks when its first process dies. So there is one persistent child, which gets one request at a time and is killed by
its process id.

The supervisor watches the memory that the child really holds (resident and swapped) while the child works. A limit on
the address space would not do. Decoders and their threads map far more than they use, and a library that is refused
memory crashes in ways that do not tell why. This works on Linux only, since it reads ``/proc``.

A process that is killed, or lacks time or memory, may be the victim of the machine and not of its video. So such a
video is tried once more, at once and alone on its machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

from components.errors import DataError
from components.ingest import child, pipe
from components.ingest.limits import WALL_FACTOR, Clock, TimeLimitError, held_mib
from components.ingest.spool import Spool, Window
from components.ingest.turns import Turns
from components.task import WindowSettings

# The child imports its decoder meanwhile, which takes a second unless the machine is busy.
START_LIMIT_SECONDS = 300.0
STARTS = 3  # tries

# If the child still holds more than this fraction of a video's memory after the video, it is replaced. The next video
# should not pay for a leak.
RECYCLE_FRACTION = 0.5


# Ends that the machine may have caused.
TRIED_TWICE = ("timeout", "out_of_memory", "crashed")


class _MemoryLimitError(Exception):
    """The child holds more memory than it may."""


@dataclass(frozen=True)
class Recipe:
    """How the child makes stored frames.

    Args:
        decoder: ``package.module:function`` of a :class:`components.ingest.decoders.base.Decoder`.
        sampling: A key of :data:`components.ingest.sampling.RULES`, or ``adaptive``.
        frames: Frames per video.
        size: Short side in pixels.
        quality: JPEG quality.
        chroma: JPEG chroma subsampling, 444 or 420.
        windows: How a long file is cut into windows. None cuts no file.
    """

    decoder: str
    sampling: str
    frames: int
    size: int
    quality: int
    chroma: int = 444
    windows: WindowSettings | None = None

    def to_dict(self) -> dict[str, Any]:
        """The recipe as a mapping, without ``windows`` if there are none."""
        content = asdict(self)
        return content if self.windows is not None else {k: v for k, v in content.items() if k != "windows"}


@dataclass(frozen=True)
class Outcome:
    """What became of one video.

    Args:
        reason: None if it was decoded, else a key of :data:`components.frames.schema.REASONS`.
        detail: Type of the exception, name of the signal, or the limit.
        row: Columns of the frame store, without ``video_id``. Empty if the video was not decoded.
        windows: The windows of a long file, read one after the other from where they are kept.
    """

    reason: str | None
    detail: str = ""
    row: dict[str, Any] = field(default_factory=dict)
    windows: Iterable[Window] = ()


class DecodeProcess:
    """A context manager around one child. After a hang or crash, the next video gets a new child.

    Args:
        recipe: How the child makes frames.
        time_limit_seconds: Processor time per video, and time in which the child may sleep. See
            :mod:`components.ingest.limits`.
        memory_limit_mib: Memory of the child, including what it needs without a video.
    """

    def __init__(self, recipe: Recipe, time_limit_seconds: float, memory_limit_mib: int = 4096) -> None:
        self.recipe = recipe
        self.time_limit_seconds = time_limit_seconds
        self.memory_limit_mib = memory_limit_mib
        self.starts = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._requests = self._answers = -1
        self._idle_mib = 0.0
        self._turns = Turns(WALL_FACTOR * time_limit_seconds)

    def __enter__(self) -> DecodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._turns.close()

    def decode(
        self, path: str, start_seconds: float | None, end_seconds: float | None, spool: Spool | None = None
    ) -> Outcome:
        """Decodes one video. It never raises because of the video.

        Args:
            path: The video's file.
            start_seconds, end_seconds: The segment. None means the file's start or end.
            spool: Where windows are kept, needed if the recipe cuts files. Its former content is lost.

        Returns:
            Its frames, or why there are none.

        Raises:
            DataError: The child does not start.
        """
        request = {"path": path, "start_seconds": start_seconds, "end_seconds": end_seconds}
        with self._turns.together():
            outcome = self._try(request, spool)
        if outcome.reason in TRIED_TWICE:
            self.close()
            with self._turns.alone():
                outcome = self._try(request, spool)
        return outcome

    def content_hash(self, path: str) -> str | None:
        """Hashes a file in the child, under the limits of decoding.

        Returns:
            Hex SHA-256. None if it is not a regular file with content, cannot be read, or takes too long.

        Raises:
            DataError: The child does not start.
        """
        answer = self._ask({"path": path, "hash": True})
        return None if isinstance(answer, Outcome) else answer[0]["sha256"]

    def _try(self, request: dict[str, Any], spool: Spool | None) -> Outcome:
        if spool is not None:
            spool.clear()
        answer = self._ask(request, spool)
        if isinstance(answer, Outcome):
            return answer
        header, blobs = answer
        if self._held_mib() - self._idle_mib > RECYCLE_FRACTION * (self.memory_limit_mib - self._idle_mib):
            self.close()
        if header["reason"] is not None:
            return Outcome(header["reason"], header["detail"])
        row = {**header["row"], "frames": blobs}
        return Outcome(None, row=row, windows=() if spool is None else spool.windows(row))

    def _ask(self, request: dict[str, Any], spool: Spool | None = None) -> tuple[dict[str, Any], list[bytes]] | Outcome:
        """Sends a request, and returns the child's answer or how the child ended. Windows go to ``spool``."""
        if self._child is None or self._child.poll() is not None:
            self.close()
            self.start()
        assert self._child is not None
        clock = Clock(self._child.pid, self.time_limit_seconds)

        def watch() -> None:
            if self._held_mib() > self.memory_limit_mib:
                raise _MemoryLimitError
            clock.check()

        try:
            pipe.send(self._requests, request)
            while "window" in (answer := pipe.receive(self._answers, watch=watch))[0]:
                assert spool is not None
                spool.add(*answer)
                clock = Clock(self._child.pid, self.time_limit_seconds)  # the limits hold from window to window
            return answer
        except TimeLimitError as limit:
            self._end(grace_seconds=0)
            return Outcome("timeout", str(limit))
        except _MemoryLimitError:
            self._end(grace_seconds=0)
            return Outcome("out_of_memory", f"{self.memory_limit_mib} MiB")
        except (EOFError, BrokenPipeError):
            # The pipe breaks before the kernel has the exit status. Writing a core file may take seconds.
            return Outcome("crashed", _name_of_end(self._end(grace_seconds=10)))
        except pipe.BrokenMessageError:
            self._end(grace_seconds=0)
            return Outcome("crashed", "BrokenMessageError")
        except OSError:  # of the spool, such as a full disk. The rest of the answer is not read
            self._end(grace_seconds=0)
            raise

    def _held_mib(self) -> float:
        return 0.0 if self._child is None else held_mib(self._child.pid)

    def close(self) -> None:
        """Ends the child. It stops by itself when its pipe is closed."""
        if self._child is not None:
            self._end(grace_seconds=2)

    def _end(self, grace_seconds: float) -> int:
        """Closes the pipes, gives the child time to stop, and then kills it.

        Returns:
            The exit status, negative for a signal.
        """
        assert self._child is not None
        os.close(self._requests)
        os.close(self._answers)
        try:
            status = self._child.wait(timeout=grace_seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            status = self._child.wait()
        self._child = None
        return status

    def start(self) -> None:
        """Starts the child. :meth:`decode` also does so when there is none.

        Raises:
            DataError: The child does not start, cannot import the decoder, or needs more memory than it may have.
        """
        for attempt in range(STARTS):
            self._launch()
            try:
                pipe.send(self._requests, self.recipe.to_dict())
                hello, _ = pipe.receive(self._answers, time.monotonic() + START_LIMIT_SECONDS)
                break
            except (TimeoutError, EOFError, BrokenPipeError, pipe.BrokenMessageError) as error:
                status = self._end(grace_seconds=2)
                # The kernel kills a process to free memory, whatever it does. Only a decoder ends by itself.
                if status != -signal.SIGKILL or isinstance(error, TimeoutError) or attempt == STARTS - 1:
                    raise DataError(
                        "decoding process does not start",
                        where=f"decoder {self.recipe.decoder}",
                        found=type(error).__name__,
                    ) from None
        self._check_start(hello)

    def _launch(self) -> None:
        child_reads, self._requests = os.pipe()
        self._answers, child_writes = os.pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
        arguments = [str(child_reads), str(child_writes), str(os.getpid())]
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", child.__name__, *arguments],
            pass_fds=(child_reads, child_writes),
            # Decoders print kilobytes for every damaged file.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        os.close(child_reads)
        os.close(child_writes)
        self.starts += 1

    def _check_start(self, hello: dict[str, Any]) -> None:
        if not hello["ready"]:
            self.close()
            raise DataError(
                "decoder cannot be loaded",
                where=f"decoder {self.recipe.decoder}",
                found=hello["error"],
                expected="a function in a module that Python can import",
                cure="install its package, or put its folder on PYTHONPATH",
            )
        self._idle_mib = self._held_mib()
        if self._idle_mib >= self.memory_limit_mib:
            self.close()
            raise DataError(
                "frames.memory_limit_mib is less than the decoding process needs without a video",
                where=f"decoder {self.recipe.decoder}",
                found=self.memory_limit_mib,
                expected=f"more than {self._idle_mib:.0f}",
            )


def _name_of_end(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
