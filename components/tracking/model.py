"""An adapter as a model that MLflow can load: models from code, an explicit signature, explicit requirements."""

from __future__ import annotations

from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import mlflow.artifacts
import mlflow.pyfunc
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from pydantic.dataclasses import dataclass

from components.backbones.settings import BackboneSettings
from components.config import STRICT
from components.tracking.store import MlflowClient, answering

__all__ = ["ModelConfig", "PythonModel", "PythonModelContext", "download_version", "save_model", "set_model"]

# What a process needs besides this project to load a version. All of them are on the public index.
REQUIREMENTS = ("mlflow", "torch", "open_clip_torch", "safetensors", "pyarrow", "pandas", "simplejpeg")


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """What a registered version keeps to find its videos again.

    Attributes:
        root: The project's folder, absolute.
        task: Key of the task in params.yaml.
        backbone: The frozen CLIP.
        split: The videos to rank: ``train``, ``val``, ``test`` or ``all``.
        top: The default number of videos per text.
        batch_size: Videos per forward pass if there is no index.
    """

    root: str
    task: str
    backbone: BackboneSettings
    split: str
    top: int
    batch_size: int


def save_model(folder: Path, *, code: Path, adapter: Path, config: ModelConfig) -> None:
    """Write a models-from-code folder with copies of ``code`` and the adapter, and nothing of the backbone.

    Args:
        folder: Where to write. It must not exist.
        code: A Python file that ends in ``set_model(...)``.
        adapter: The adapter's folder, copied whole.
        config: What ``context.model_config`` contains when the model is loaded.
    """
    row: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "text"),
        ColSpec(DataType.long, "rank"),
        ColSpec(DataType.string, "video_id"),
        ColSpec(DataType.double, "score"),
        ColSpec(DataType.double, "start_seconds"),
        ColSpec(DataType.double, "end_seconds"),
        ColSpec(DataType.string, "uri"),
        ColSpec(DataType.boolean, "below_cutoff", required=False),
    ]
    # The input column has no name in the schema. With a name, MLflow would refuse a plain list of texts.
    inputs = Schema([ColSpec(DataType.string)])
    texts = [ParamSpec(name, DataType.string, "") for name in ("where", "minus")]
    everything = ParamSpec("all", DataType.boolean, False)
    params = ParamSchema([ParamSpec("top", DataType.long, config.top), *texts, everything])
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(code),
        artifacts={"adapter": str(adapter)},
        signature=ModelSignature(inputs, Schema(row), params),
        pip_requirements=[f"{name}=={version}" for name in REQUIREMENTS if (version := _version(name))],
        model_config=asdict(config),
    )


def download_version(client: MlflowClient, name: str, version: str, folder: Path) -> Path:
    """Copy the whole model folder of a registered version into ``folder``."""
    # MLflow would look up `models:/...` in its global registry instead of this client's.
    uri, store = client.get_model_version_download_uri(name, version), client.tracking_uri
    with answering(store):
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder), tracking_uri=store))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
