"""How a training's metrics and messages reach the driver: rank 0 posts to a mailbox, and the driver empties it.

So workers need no tracking store, no terminal and no folder shared with the driver, and a slow store never delays a
step. The mailbox runs in a separate process. Nothing here imports PyTorch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Metrics:
    """A logged point: metrics by name after ``step`` steps."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Message:
    """A line for the driver's terminal, with its level in :mod:`logging`."""

    text: str
    level: int


Post = Metrics | Message


class Mailbox:
    """Posts on their way from workers to the driver, and the first fault. It runs as a Ray actor next to the driver."""

    def __init__(self) -> None:
        self._posts: list[Post] = []
        self._fault = ""

    def post(self, post: Post) -> None:
        """Adds a post."""
        self._posts.append(post)

    def take(self) -> list[Post]:
        """The posts since the last call."""
        posts, self._posts = self._posts, []
        return posts

    def report(self, fault: str) -> None:
        """Keeps the first fault. Later ones are its consequences."""
        self._fault = self._fault or fault

    def fault(self) -> str:
        """The first reported fault, or an empty string."""
        return self._fault


class MailboxWriter(logging.Handler):
    """Posts metrics and log messages.

    Args:
        post: :meth:`Mailbox.post` of a mailbox.
    """

    def __init__(self, post: Callable[[Post], object]) -> None:
        super().__init__(logging.INFO)
        self._post = post

    def metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Passes metrics on to the driver's log."""
        self._post(Metrics(step, metrics))

    def emit(self, record: logging.LogRecord) -> None:
        """Passes a message on to the driver's terminal."""
        self._post(Message(record.getMessage(), record.levelno))


class MailboxFollower:
    """Empties a mailbox repeatedly for the length of a ``with`` block, and once more at its end.

    Args:
        take: :meth:`Mailbox.take` of a mailbox.
        log: Receives step and metrics. If it raises, the block ends with its error.
    """

    def __init__(self, take: Callable[[], list[Post]], log: Callable[[int, dict[str, float]], None]) -> None:
        self._take = take
        self._log = log
        self._done = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._follow, name="mailbox", daemon=True)

    def __enter__(self) -> MailboxFollower:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def _follow(self) -> None:
        try:
            while not self._done.wait(POLL_SECONDS):
                self._pass_on()
            self._pass_on()
        except Exception as error:  # the thread that waits for the training raises it
            logger.error("metrics are no longer logged: %s", error)
            self._error = error

    def _pass_on(self) -> None:
        for post in self._take():
            if isinstance(post, Message):
                logger.log(post.level, "%s", post.text)
            else:
                self._log(post.step, post.metrics)
