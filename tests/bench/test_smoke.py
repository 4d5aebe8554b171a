"""Every script in bench/ runs, with the smallest arguments it takes. The numbers mean nothing at these sizes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import tiny_world
from scripts import run_file

BENCH = Path(__file__).resolve().parents[2] / "bench"
# Modules that other scripts import.
LIBRARIES = {"activations", "interleaved", "measure", "models", "synthetic"}

# These start processes that import them again, measure the memory of one, or need one without a GPU.
SEPARATE = {"all_methods", "gpu", "ingest", "memory", "ranks", "search", "train", "workers"}

# The arguments of each run, and a word that its output has. Folders of the test replace ROOT and DATA.
RUNS: dict[str, tuple[str, str]] = {
    "adaptive_sampling": ("--data DATA --videos 1", "segment_center"),
    "all_methods": ("--root ROOT --tasks tiny --methods zero_shot", "1/1"),
    "backbones": ("--root ROOT --task tiny --methods zero_shot --forms", "siglip"),
    "encode": ("--methods tempme --rounds 1 --videos 1", "of lora"),
    "gpu": ("--smoke --parts loader ranks", "CPU"),
    "graphs": ("--smoke --methods vop --backend eager", "compiled"),
    "ingest": ("--parts decode --rounds 1 --generated 1", "check and isolation"),
    "memory": ("--videos 2 --shard 1 --cpus 1", "driver"),
    "ranks": ("--sizes 50 60 --plain-up-to 50", "peak MiB"),
    "recipes": ("--smoke --recipes msvd --methods vop", "vop"),
    "search": ("--smoke" if importlib.util.find_spec("faiss") else "--smoke --parts open embed add", "added_s"),
    "search_settings": ("--root ROOT --task tiny --method vop training.epochs=1", "t2v R@1"),
    "train": ("--parts evaluation --models mini --rounds 1 --videos 2", "of the limit"),
    "workers": ("--parts resume --root ROOT --task tiny --epochs 5", "resume:"),
}


def scripts() -> list[str]:
    return sorted(path.stem for path in BENCH.glob("*.py") if path.stem not in LIBRARIES)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature project."""
    folder = tmp_path_factory.mktemp("project")
    tiny_world.write_project(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of a second each, with the list of them that ActivityNet's annotations have."""
    folder = tmp_path_factory.mktemp("data")
    names = [f"v_{number}" for number in range(5)]
    (folder / "val_1.json").write_text(json.dumps(dict.fromkeys(names)))
    (folder / "videos").mkdir()
    for name in names:
        path = folder / "videos" / f"{name.removeprefix('v_')}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
            for value in range(0, 250, 25):
                picture = np.full((96, 96, 3), value, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    return folder


def test_every_script_has_a_run() -> None:
    assert set(scripts()) <= RUNS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("script", scripts())
def test_a_script_runs(script: str, root: Path, data: Path, tmp_path: Path) -> None:
    arguments, expected = RUNS[script]
    words = [{"ROOT": str(root), "DATA": str(data)}.get(word, word) for word in arguments.split()]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**clean, "PYTHONPATH": str(BENCH.parent), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if script in SEPARATE:
        done = subprocess.run(
            [sys.executable, str(BENCH / f"{script}.py"), *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    else:
        done = run_file(BENCH / f"{script}.py", tmp_path, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert expected in done.stdout
