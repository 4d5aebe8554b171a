"""An adapter as a model that MLflow can load: models-from-code, an explicit signature, explicit requirements."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from components.tracking.mlflow import MlflowClient  # first: it sets what MLflow reads when it is imported

import mlflow.artifacts  # isort: skip
import mlflow.pyfunc  # isort: skip
from mlflow.models import ModelSignature, set_model  # isort: skip
from mlflow.pyfunc import PythonModel  # isort: skip
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec  # isort: skip

__all__ = ["PythonModel", "download_version", "save_model", "set_model"]

# What a process needs beside this project to load a version; all on the public index.
REQUIREMENTS = ("mlflow", "torch", "open_clip_torch", "safetensors", "pyarrow", "pandas", "simplejpeg")


def save_model(folder: Path, *, code: Path, adapter: Path, config: Mapping[str, Any]) -> None:
    """Writes a models-from-code folder: a copy of ``code`` and of the adapter, nothing of the backbone.

    Args:
        folder: to write; must not exist.
        code: Python file that ends in ``set_model(...)``.
        adapter: folder copied whole.
        config: what ``context.model_config`` holds when the model is loaded; its ``top`` is the parameter's default.
    """
    row: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "text"),
        ColSpec(DataType.long, "rank"),
        ColSpec(DataType.string, "video_id"),
        ColSpec(DataType.double, "score"),
        ColSpec(DataType.double, "start_seconds"),
        ColSpec(DataType.double, "end_seconds"),
        ColSpec(DataType.string, "uri"),
    ]
    # The input column has no name in the schema, or MLflow would refuse a plain list of texts.
    inputs, params = Schema([ColSpec(DataType.string)]), ParamSchema([ParamSpec("top", DataType.long, config["top"])])
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(code),
        artifacts={"adapter": str(adapter)},
        signature=ModelSignature(inputs, Schema(row), params),
        pip_requirements=[f"{name}=={version}" for name in REQUIREMENTS if (version := _version(name))],
        model_config=dict(config),
    )


def download_version(client: MlflowClient, name: str, version: str, folder: Path) -> Path:
    """Copies a registered version's whole model folder into ``folder``."""
    # Not `models:/...`, which MLflow looks up in its global registry and not in this client's.
    uri = client.get_model_version_download_uri(name, version)
    return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder), tracking_uri=client.tracking_uri))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
