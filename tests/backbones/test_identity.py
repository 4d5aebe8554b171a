"""What DVC compares of a backbone: its settings, and the content of every file that they name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from components.backbones.identity import identity
from components.backbones.settings import BackboneSettings


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_counts_by_its_content_and_a_tag_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_bytes(b"{}")
    outside = tmp_path.parent / f"{tmp_path.name}.pt"
    outside.write_bytes(b"weights")
    found = identity(BackboneSettings("small.json", str(outside)), tmp_path)
    assert found["files"] == {"small.json": sha256(b"{}"), str(outside): sha256(b"weights")}
    assert found["settings"]["model"] == "small.json"
    tag = BackboneSettings("ViT-B-32", "openai")
    assert identity(tag, tmp_path)["files"] == {}
    assert identity(tag, tmp_path) != identity(BackboneSettings("ViT-B-32", "laion2b_s34b_b79k"), tmp_path)
    # An empty text is not the project's folder.
    assert identity(BackboneSettings("ViT-B-32", ""), tmp_path)["files"] == {}


def test_a_folder_counts_with_the_names_and_contents_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "weights" / "clip"
    (folder / "parts").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "parts" / "1.safetensors").write_bytes(b"one")
    settings = BackboneSettings("ViT-B-32", "weights/clip")
    first = identity(settings, tmp_path)
    assert list(first["files"]) == ["weights/clip"]
    assert identity(settings, tmp_path) == first
    (folder / "parts" / "1.safetensors").write_bytes(b"two")
    second = identity(settings, tmp_path)
    (folder / "parts" / "1.safetensors").rename(folder / "parts" / "2.safetensors")
    third = identity(settings, tmp_path)
    assert len({found["files"]["weights/clip"] for found in (first, second, third)}) == 3
