"""The files of a registered version: put in, found complete, and checked before anything is made from them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import FileInfo

from components.adapters.card import CARD, WEIGHTS, AdapterCard, read_card
from components.errors import AdapterError, RegistryError
from components.provenance import sha256_file
from components.tracking.evaluated import EvaluatedAdapter, copy_adapter
from components.tracking.model import ModelConfig, download_version, save_model
from components.tracking.store import MlflowClient, StoreError

ADAPTER = "artifacts/adapter"


class VersionFiles:
    """The files of the versions of one registered model.

    Args:
        client: A client of the store.
        model: The model's name, which is the task's key in params.yaml.
    """

    def __init__(self, client: MlflowClient, model: str) -> None:
        self.client = client
        self.model = model

    def upload(self, model_id: str, adapter: EvaluatedAdapter, code: Path, config: ModelConfig) -> None:
        """Make the files of a version.

        Args:
            model_id: Its id among MLflow's logged models.
            adapter: What it contains.
            code: The file that MLflow runs to load it.
            config: What it finds its videos with.
        """
        with tempfile.TemporaryDirectory() as scratch:
            copy_adapter(adapter.folder, Path(scratch) / "adapter")
            folder = Path(scratch) / "model"
            save_model(folder, code=code, adapter=Path(scratch) / "adapter", config=config)
            self.client.log_model_artifacts(model_id, str(folder))

    def has_all(self, model_id: str, card: AdapterCard) -> bool:
        """Whether the store has all files that a version with this adapter needs."""
        sizes = {
            Path(info.path).name: info.file_size for path in (None, ADAPTER) for info in self._list(model_id, path)
        }
        return {"MLmodel", CARD} <= set(sizes) and sizes.get(WEIGHTS) == card.bytes

    @contextlib.contextmanager
    def copy_of(self, number: str) -> Iterator[Path]:
        """A copy of a version's model folder, for the length of a ``with`` block.

        Raises:
            RegistryError: The store has the version but not its files.
        """
        version = self.client.get_model_version(self.model, number)
        if not self._list(version.tags["model_id"], ADAPTER):
            raise RegistryError(
                f"the files of version {number} are gone",
                where=f"model {self.model}",
                found=version.source,
                cure=self.cure(number),
            )
        with tempfile.TemporaryDirectory() as scratch:
            yield download_version(self.client, self.model, number, Path(scratch))

    def checked(self, adapter: Path, number: str, sha256: str | None) -> AdapterCard:
        """The card of an adapter whose files are whole.

        Args:
            adapter: The adapter's folder.
            number: The version that it comes from.
            sha256: The hash that the weights had when they were registered, None if that is not known.

        Raises:
            RegistryError: A file is missing or damaged, or the weights have another hash.
        """
        try:
            card = read_card(adapter)
            found = sha256_file(adapter / WEIGHTS)
        except (AdapterError, OSError) as error:
            raise self._damaged(number, str(error)) from None
        if not found == card.sha256 == (sha256 or found):
            raise self._damaged(number, f"weights with the hash {found}")
        return card

    def cure(self, number: str) -> str:
        """What to do about a version whose files are gone or damaged."""
        return (
            "put its files back, or give the alias to the best candidate: "
            f"python pipelines/register.py --task {self.model} --retire 'version {number} is lost'"
        )

    def _damaged(self, number: str, found: str) -> RegistryError:
        return RegistryError(
            f"the adapter of version {number} is damaged",
            where=f"model {self.model}",
            found=found,
            cure=self.cure(number),
        )

    def _list(self, model_id: str, path: str | None) -> list[FileInfo]:
        try:
            return self.client.list_logged_model_artifacts(model_id, path)
        except StoreError as error:
            if error.code == "RESOURCE_DOES_NOT_EXIST":
                return []
            raise
