"""An MLflow client whose every failure is one error that names the store and what it answered."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from components.errors import RegistryError, without_secrets
from components.tracking.address import SQLITE

# Characters of an answer that an error shows.
SHOWN = 400


class StoreError(RegistryError):
    """The tracking store refused a request, or gave no answer that MLflow understands.

    Attributes:
        code: MLflow's name of the fault, such as ``RESOURCE_DOES_NOT_EXIST``. Empty if the answer had none.
    """

    code = ""


class CheckedClient(MlflowClient):
    """MLflow's client. All of its methods raise :class:`StoreError` and nothing else.

    MLflow itself raises whatever its parts meet: errors of HTTP, of JSON and of SQLAlchemy, and an ``AttributeError``
    for an answer of another shape.
    """

    def __init__(self, tracking_uri: str, registry_uri: str) -> None:
        self._address = tracking_uri
        super().__init__(tracking_uri, registry_uri)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("_") or not callable(value):
            return value
        uri = super().__getattribute__("_address")

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            with answering(uri):
                return value(*args, **kwargs)

        return call


@contextlib.contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turns every error of MLflow's code in a ``with`` block into a :class:`StoreError` of one line."""
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:
        raise _fault(uri, error) from error


def _fault(uri: str, error: Exception) -> StoreError:
    text = _one_line(error)
    code = error.error_code if isinstance(error, MlflowException) else ""
    if "database is locked" in str(error):
        fault = StoreError(
            "another process has locked the tracking store", where=uri, cure="wait until it is done, then retry"
        )
    elif uri.startswith(SQLITE):
        fault = StoreError(
            "the tracking store cannot be used",
            where=uri,
            found=text,
            cure="put back a copy of the file, or move it away: "
            "`dvc repro --single-item --force register` registers again",
        )
    else:
        fault = StoreError(
            "no usable answer from the MLflow server",
            where=uri,
            found=text,
            cure="check the address (MLFLOW_TRACKING_URI or tracking.uri), your access and the server's log",
        )
    fault.code = code
    return fault


def _one_line(error: Exception) -> str:
    """The message without markup and line breaks, cut to :data:`SHOWN` characters."""
    text = str(error) if isinstance(error, MlflowException) else f"{type(error).__name__}: {error}"
    text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    # Blanked before the cut, since half an address does not look like one.
    text = without_secrets(" ".join(text.split()))
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
