"""Where an artifact came from: commit, dirty flag and versions, in a plain dict that is stored with it."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("reeltune", "torch", "open_clip_torch", "ray", "mlflow", "dvc", "decord", "av", "pyarrow", "numpy")


def collect(root: Path) -> dict[str, str | bool | dict[str, str] | None]:
    """Collects the commit of ``root`` (None outside git), whether files differ from it, and versions.

    The dirty flag ignores dvc.lock, since ``dvc repro`` rewrites it between stages.
    """
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")
    return {
        "commit": commit or None,
        "dirty": bool(changed) if commit else None,
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def sha256_file(path: Path) -> str:
    """The hex SHA-256 of the bytes of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(root: Path, *args: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
