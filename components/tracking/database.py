"""The SQLite file of a local tracking store: waiting for other writers, damage, and a project that was moved.

MLflow writes absolute paths of artifacts into its database. After a project is moved or copied they name the folder
where it used to be. What is written there is lost, or gets into another project.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from components.errors import RegistryError
from components.layout import Layout

logger = logging.getLogger(__name__)

# How long to wait for another process that writes, and when to say so.
WAIT_SECONDS = 60.0
SAY_AFTER_SECONDS = 3.0

# Give new beginnings to the addresses of artifacts, wherever MLflow keeps them.
UPDATES = (
    "UPDATE experiments SET artifact_location = :new || substr(artifact_location, length(:old) + 1)"
    " WHERE substr(artifact_location, 1, length(:old)) = :old",
    "UPDATE runs SET artifact_uri = :new || substr(artifact_uri, length(:old) + 1)"
    " WHERE substr(artifact_uri, 1, length(:old)) = :old",
    "UPDATE logged_models SET artifact_location = :new || substr(artifact_location, length(:old) + 1)"
    " WHERE substr(artifact_location, 1, length(:old)) = :old",
    "UPDATE model_versions SET source = :new || substr(source, length(:old) + 1)"
    " WHERE substr(source, 1, length(:old)) = :old",
    "UPDATE model_versions SET storage_location = :new || substr(storage_location, length(:old) + 1)"
    " WHERE substr(storage_location, 1, length(:old)) = :old",
)


def wait_for_writers(database: Path, seconds: float = WAIT_SECONDS) -> None:
    """Returns when no other process is writing to the database, which need not exist.

    Raises:
        RegistryError: The file is no SQLite database, or it stays locked.
    """
    if not database.exists():
        return
    end = time.monotonic() + seconds
    said = False
    while True:
        try:
            with _opened(database, timeout=SAY_AFTER_SECONDS) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            return
        except sqlite3.OperationalError as error:
            if "readonly" in str(error):
                return  # nobody can write to it, and reading needs no lock
            if "locked" not in str(error):
                raise _damaged(database, error) from None
            if time.monotonic() >= end:
                raise RegistryError(
                    "another process has locked the tracking store",
                    where=database,
                    cure=f"end it, or wait until it is done (this one waited {seconds:.0f} s)",
                ) from None
            if not said:
                logger.warning("%s is locked by another process, waiting up to %.0f s", database, seconds)
                said = True
        except sqlite3.DatabaseError as error:
            raise _damaged(database, error) from None


def follow_a_move(database: Path) -> None:
    """Makes the addresses of artifacts start at the database's folder if the project used to be elsewhere.

    Only addresses that this project writes change: ``file://<folder>/mlartifacts/<task>/...``.

    Raises:
        RegistryError: The artifacts are still in the folder where the project used to be.
    """
    here = Layout(database.parent).tracking_artifacts
    with _opened(database) as connection, _damage_named(database):
        for old in sorted(_former_places(connection, here)):
            if old.is_dir() and not here.is_dir():
                raise RegistryError(
                    "the artifacts of this tracking store are in another folder",
                    where=database,
                    found=str(old),
                    expected=str(here),
                    cure=f"copy them: {shlex.join(['cp', '-r', str(old), str(here)])}",
                )
            connection.execute("BEGIN IMMEDIATE")
            places = {"old": f"{old.as_uri()}/", "new": f"{here.as_uri()}/"}
            changed = sum(connection.execute(update, places).rowcount for update in UPDATES)
            connection.execute("COMMIT")
            logger.warning("the project was moved: %d paths in %s lead to %s, not to %s", changed, database, here, old)


def alias_in(database: Path, model: str, alias: str) -> str | None:
    """The version that has an alias, read without MLflow, whose import takes seconds.

    Returns:
        None if the database has no such model.

    Raises:
        NoAliasError: The model exists and no version has the alias.
        RegistryError: The file is damaged or locked.
    """
    with _opened(database) as connection, _damage_named(database):
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"registered_models", "registered_model_aliases"} <= tables:
            return None
        if connection.execute("SELECT 1 FROM registered_models WHERE name = ?", (model,)).fetchone() is None:
            return None
        query = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
        found = connection.execute(query, (model, alias)).fetchone()
    if found is None:
        raise missing_alias(model, alias)
    return str(found[0])


class NoAliasError(RegistryError):
    """The registry has the model, and no version of it has the alias."""


def missing_alias(model: str, alias: str) -> NoAliasError:
    """The error that no version of a model has the alias."""
    return NoAliasError(
        "no version has the alias",
        where=f"model {model}",
        found=alias,
        cure=f"python pipelines/register.py --task {model} gives it to the best candidate",
    )


@contextlib.contextmanager
def _opened(database: Path, timeout: float = WAIT_SECONDS) -> Iterator[sqlite3.Connection]:
    # Without this mode, SQLite would make a missing file. No isolation level: transactions are begun and ended here.
    address = f"file:{quote(str(database.resolve()))}?mode=rw"
    with contextlib.closing(sqlite3.connect(address, timeout=timeout, isolation_level=None, uri=True)) as connection:
        yield connection


@contextlib.contextmanager
def _damage_named(database: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _damaged(database, error) from None


def _damaged(database: Path, error: Exception) -> RegistryError:
    return RegistryError(
        "the tracking store cannot be used",
        where=database,
        found=str(error),
        expected="a SQLite database of MLflow",
        cure="put back a copy of the file, or move it away: `dvc repro --single-item --force register` registers again",
    )


def _former_places(connection: sqlite3.Connection, here: Path) -> set[Path]:
    """Other folders called ``mlartifacts`` that experiments of this project write to."""
    found = set()
    for task, location in connection.execute("SELECT name, artifact_location FROM experiments"):
        parts = urlsplit(location or "")
        path = Path(unquote(parts.path))
        is_ours = parts.scheme == "file" and path.name == task and path.parent.name == here.name
        if is_ours and path.parent.resolve() != here.resolve():
            found.add(path.parent)
    return found
