"""Decoding in a child process with limits: if a video hangs, crashes or bloats the decoder, only that video is lost.

Threads and signals do not help, since a hung C library returns to neither. A process pool of the standard library
breaks when its first process dies. So there is one persistent child, which gets one request at a time and is killed by
its process id.

The supervisor watches the memory that the child really holds (resident and swapped) while the child works. A limit on
the address space would not do. Decoders and their threads map far more than they use, and a library that is refused
memory crashes in ways that do not tell why. This works on Linux only, since it reads ``/proc``.
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

# If the child still holds more than this fraction of a video's memory after the video, it is replaced. The next video
# should not pay for a leak.
RECYCLE_FRACTION = 0.5


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
        detail: Type of the exception, name of the signal, or the limit.
        row: Columns of the frame store, without ``video_id``. Empty if the video was not decoded.
    """

    reason: str | None
    detail: str = ""
    row: dict[str, Any] = field(default_factory=dict)


class DecodeProcess:
    """A context manager around one child. After a hang or crash, the next video gets a new child.

    Args:
        recipe: How the child makes frames.
        time_limit_seconds: Wall clock per video.
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

    def __enter__(self) -> DecodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decode(self, path: str, start_seconds: float | None, end_seconds: float | None) -> Outcome:
        """Decodes one video. It never raises because of the video.

        Args:
            path: The video's file.
            start_seconds, end_seconds: The segment. None means the file's start or end.

        Returns:
            Its frames, or why there are none.

        Raises:
            DataError: The child does not start.
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
            # The pipe breaks before the kernel has the exit status. Writing a core file may take seconds.
            return Outcome("crashed", _name_of_end(self._end(grace_seconds=10)))
        except pipe.BrokenMessageError:
            self._end(grace_seconds=0)
            return Outcome("crashed", "BrokenMessageError")
        if self._held_mib() - self._idle_mib > RECYCLE_FRACTION * (self.memory_limit_mib - self._idle_mib):
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
        except (TimeoutError, EOFError, BrokenPipeError, pipe.BrokenMessageError) as error:
            self.close()
            raise DataError(
                "decoding process does not start", where=f"decoder {self.recipe.decoder}", found=type(error).__name__
            ) from None
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


def held_mib(process: int) -> float:
    """Returns the memory that a process holds, resident and swapped, in MiB. It is 0 for a zombie."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("VmRSS:", "VmSwap:"))) / 1024
