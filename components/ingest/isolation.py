"""Decoding in a process of its own, with limits: a video that hangs, crashes or bloats the decoder costs itself only.

Threads and signals do not help, since a hung C library returns to neither; a pool of the standard library breaks
with its first dead process. So: one persistent child, one request at a time, killed by its own process id.

Memory is watched from here while the child works, by what it really holds (resident and swapped). A limit on its
address space would not do: decoders and their threads map far more than they use, and a library that is refused memory
crashes in ways that do not tell why. Linux only, as ``/proc`` is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from components.errors import DataError
from components.ingest import child, pipe

START_LIMIT_SECONDS = 60.0

# A child that after a video still holds this share of what videos may take starts anew: the next one is not to pay for
# a leak.
RECYCLE_SHARE = 0.5


class _MemoryLimitError(Exception):
    """The child holds more than it may."""


@dataclass(frozen=True)
class Recipe:
    """How the child makes stored frames.

    Args:
        decoder: ``module:function`` of a :data:`components.ingest.decoders.base.Decoder`.
        sampling: key of :data:`components.ingest.sampling.RULES`, or ``adaptive``.
        frames: frames per video.
        size: short side in pixels.
        quality: JPEG quality.
        chroma: of the JPEGs, 444 or 420.
    """

    decoder: str
    sampling: str
    frames: int
    size: int
    quality: int
    chroma: int = 444


@dataclass(frozen=True)
class Outcome:
    """What became of one video.

    Args:
        reason: None if it was decoded, else a key of :data:`components.frames.schema.REASONS`.
        detail: type of the exception, name of the signal or the limit.
        row: columns of the frame store but for ``video_id``; empty if it was not decoded.
    """

    reason: str | None
    detail: str = ""
    row: dict[str, Any] = field(default_factory=dict)


class DecodeProcess:
    """A context manager around one child; after a hang or crash the next video gets a new one.

    Args:
        recipe: sent to every child.
        time_limit_seconds: wall clock per video.
        memory_limit_mib: memory of the child, with what it takes for itself.
    """

    def __init__(self, recipe: Recipe, time_limit_seconds: float, memory_limit_mib: int = 4096) -> None:
        self.recipe = recipe
        self.time_limit_seconds = time_limit_seconds
        self.memory_limit_mib = memory_limit_mib
        self.starts = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._requests = self._answers = -1
        self._idle_mib = 0.0

    def __enter__(self) -> DecodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decode(self, path: str, start_seconds: float | None, end_seconds: float | None) -> Outcome:
        """Frames of one video, or why there are none; never raises because of the video.

        Raises:
            DataError: the child does not start.
        """
        if self._child is None or self._child.poll() is not None:
            self.close()
            self.start()
        request = {"path": path, "start_seconds": start_seconds, "end_seconds": end_seconds}
        try:
            pipe.send(self._requests, request)
            deadline = time.monotonic() + self.time_limit_seconds
            header, blobs = pipe.receive(self._answers, deadline, self._watch)
        except TimeoutError:
            self._end(grace_seconds=0)
            return Outcome("timeout", f"{self.time_limit_seconds:g} s")
        except _MemoryLimitError:
            self._end(grace_seconds=0)
            return Outcome("out_of_memory", f"{self.memory_limit_mib} MiB")
        except (EOFError, BrokenPipeError):
            # The pipe breaks a moment before the kernel has the status; writing a core file may take seconds.
            return Outcome("crashed", _name_of_end(self._end(grace_seconds=10)))
        except pipe.BrokenMessageError:
            self._end(grace_seconds=0)
            return Outcome("crashed", "BrokenMessageError")
        if self._held_mib() - self._idle_mib > RECYCLE_SHARE * (self.memory_limit_mib - self._idle_mib):
            self.close()
        if header["reason"] is not None:
            return Outcome(header["reason"], header["detail"])
        return Outcome(None, row={**header["row"], "frames": blobs})

    def _watch(self) -> None:
        if self._held_mib() > self.memory_limit_mib:
            raise _MemoryLimitError

    def _held_mib(self) -> float:
        assert self._child is not None
        return held_mib(self._child.pid) if sys.platform == "linux" else 0.0

    def close(self) -> None:
        """Ends the child, which stops by itself once its pipe is closed."""
        if self._child is not None:
            self._end(grace_seconds=2)

    def _end(self, grace_seconds: float) -> int:
        """Waits for the child's own end, then kills it; its exit status, negative for a signal."""
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
        """Starts the child; :meth:`decode` does it by itself.

        Raises:
            DataError: the child does not start, cannot import the decoder, or needs more memory than it may have.
        """
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
        try:
            pipe.send(self._requests, asdict(self.recipe))
            hello, _ = pipe.receive(self._answers, time.monotonic() + START_LIMIT_SECONDS)
            problem = "" if hello["ready"] else hello["error"]
        except (TimeoutError, EOFError, BrokenPipeError, pipe.BrokenMessageError) as error:
            problem = type(error).__name__
        if problem:
            self.close()
            raise DataError("decoding process does not start", where=f"decoder {self.recipe.decoder}", found=problem)
        self._idle_mib = self._held_mib()
        if self._idle_mib >= self.memory_limit_mib:
            self.close()
            raise DataError(
                "frames.memory_limit_mib is less than the decoding process takes for itself",
                where=f"decoder {self.recipe.decoder}",
                found=self.memory_limit_mib,
                expected=f"more than {self._idle_mib:.0f}",
            )


def _name_of_end(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def held_mib(process: int) -> float:
    """Memory that a process holds, resident and swapped, in MiB; 0 for one that has ended and is not waited for."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("VmRSS:", "VmSwap:"))) / 1024
