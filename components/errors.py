"""The exceptions of the project. Each says what is wrong, where, what was expected and what to do."""

from __future__ import annotations

LONGEST = 2000  # characters of a value in a message


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
        super().__init__("; ".join(parts))
        # An exception crosses process boundaries by pickle, which calls __init__ with args only.
        self.args = (str(self.args[0]),)


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
