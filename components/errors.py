"""The project's exceptions: each names what is wrong, where, what was expected and how to cure it."""

from __future__ import annotations


class ReelTuneError(Exception):
    """An error the user can act on.

    Args:
        what: the fault in one clause.
        where: file, key, line or id that holds the fault.
        found: the offending value.
        expected: what would have been right.
        cure: what to do about it.
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
            parts.append(f"found {found!r}")
        if expected is not None:
            parts.append(f"expected {expected}")
        if cure is not None:
            parts.append(cure)
        super().__init__("; ".join(parts))
        # Exceptions cross process boundaries by pickle, which calls __init__ with args alone.
        self.args = (str(self.args[0]),)


class ConfigError(ReelTuneError):
    """A fault in params.yaml or in a command-line override."""


class DataError(ReelTuneError):
    """A fault in annotations, videos or a frame store."""


class BackboneError(ReelTuneError):
    """A backbone that does not exist, cannot be read or is of an unsupported kind."""


class AdapterError(ReelTuneError):
    """An adapter file that is damaged or does not fit the backbone or method."""


class TrainingError(ReelTuneError):
    """Training that cannot go on: a non-finite loss, an empty split, a lost worker."""


class EvaluationError(ReelTuneError):
    """Scores that cannot be ranked."""


class RegistryError(ReelTuneError):
    """A registry that cannot be reached or whose content contradicts the request."""
