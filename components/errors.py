"""The exceptions of the project. Each says what is wrong, where, what was expected and what to do.

No message shows a credential. :func:`without_secrets` is also for what is logged or recorded elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

# Faults of a disk or of rights that a person can mend.
DISK_FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this process may write",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk reports a fault",
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
}

LONGEST = 2000  # characters of a value in a message
_SECRET = r"password|passwd|secret|token|access_?key|api_?key|credential|signature"
_PATTERNS = (
    # The user and password of an address. A secret key of S3 may contain slashes.
    (re.compile(r"(\b[a-z][\w+.-]*://)(?:[^\s/@:'\"]+:[^\s@'\"]+|[^\s/@'\"]*)@", re.IGNORECASE), r"\1***@"),
    (re.compile(rf"([?&;][\w.-]*(?:{_SECRET})[\w.-]*=)[^&\s'\"]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), "***"),
)
_SECRET_NAME = re.compile(rf"(?:{_SECRET})(?!.*_(?:path|file)$)", re.IGNORECASE)
# Shorter values of variables would also be parts of ordinary words.
_SHORTEST = 8


def without_secrets(text: str) -> str:
    """``text`` with ``***`` for credentials in addresses and for the values of variables that hold some."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    return text


class ReelTuneError(Exception):
    """An error that the user can act on.

    Args:
        what: The fault in one clause.
        where: The file, key, line or id that holds the fault.
        found: The offending value.
        expected: What would have been right.
        cure: What to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        cure: str | None = None,
    ) -> None:
        parts = [f"{where}: {what}" if where is not None else what]
        if found is not None:
            parts.append(f"found {_shown(found)}")
        if expected is not None:
            parts.append(f"expected {expected}")
        if cure is not None:
            parts.append(cure)
        super().__init__(without_secrets("; ".join(parts)))
        # An exception crosses process boundaries by pickle, which calls __init__ with args only.
        self.args = (str(self.args[0]),)


def one_line(error: object, most: int = 200) -> str:
    """The text of an error of a library, which may have several lines, for a message of one.

    Args:
        error: The error.
        most: The most characters that are kept.
    """
    return " ".join(str(error).split())[:most]


def _shown(found: object) -> str:
    """``found`` for a message. A value from a hostile file may be long or deep."""
    try:
        text = repr(found)
    except RecursionError:
        return f"a deeply nested {type(found).__name__}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


class ConfigError(ReelTuneError):
    """A fault in params.yaml, in a command-line override or in the name of a plug-in."""


class DataError(ReelTuneError):
    """A fault in annotations, videos, a frame store or the storage under them."""


class MissingFileError(DataError):
    """There is no file at the given place."""


class BackboneError(ReelTuneError):
    """A backbone that does not exist, cannot be read or has an unsupported form."""


class AdapterError(ReelTuneError):
    """An adapter file that is damaged or does not fit the backbone or the method."""


class TrainingError(ReelTuneError):
    """A training that cannot go on: a non-finite loss, an empty split or a lost worker."""


class EvaluationError(ReelTuneError):
    """Scores that cannot be ranked."""


class RegistryError(ReelTuneError):
    """A registry that cannot be reached or that contradicts the request."""


@contextlib.contextmanager
def one_disk_fault(where: Path, cure: str) -> Iterator[None]:
    """Turns a full or faulty disk into one error for the length of a ``with`` block.

    Args:
        where: The folder that is written to, for a fault that names no file.
        cure: What to do.

    Raises:
        DataError: One of :data:`DISK_FAULTS`.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        full = isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_FULL
        number = errno.ENOSPC if full else getattr(error, "errno", None)
        if number not in DISK_FAULTS:
            raise
        raise DataError(DISK_FAULTS[number], where=getattr(error, "filename", None) or where, cure=cure) from None
