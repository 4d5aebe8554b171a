"""Real MP4 files, and small collections of them in published annotation formats, for tests."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from components.params import Params, load_params

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


def grey_of(index: int) -> int:
    """Returns the brightness of frame ``index`` of a test video. It identifies the frame after two lossy codings."""
    return 20 + 9 * (index % 24)


def write_mp4(path: Path, frames: int = 24, width: int = 64, height: int = 48, fps: int = 12, hue: int = 0) -> None:
    """Writes H.264 with a grey left part, brighter from frame to frame, and a right part of one colour."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, width // 2 :] = (40 * hue % 256, 90, 255 - 40 * hue % 256)

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for index in range(frames):
            picture[:, : width // 2] = grey_of(index)
            yield picture

    write_frames(path, pictures(), fps)


def write_frames(path: Path, frames: Iterable[NDArray[np.uint8]], fps: int) -> None:
    """Writes RGB pictures ``uint8[H, W, 3]`` as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18", "g": "12"})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            if not stream.codec_context.is_open:
                stream.height, stream.width = frame.shape[:2]
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def write_audio_mp4(path: Path) -> None:
    """Writes a media file without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for index in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 44100, 1024 * index
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def write_msrvtt(folder: Path, train: Sequence[str], val: Sequence[str], test: Sequence[str]) -> None:
    """Writes annotations in MSR-VTT's files, with two captions per training video."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(folder / "MSRVTT_train.9k.csv", ["video_id"], [[name] for name in train])
    if val:
        _write_csv(folder / "MSRVTT_val.csv", ["video_id"], [[name] for name in val])
    rows = [[f"ret{k}", f"msr{k}", name, f"a test caption of {name}"] for k, name in enumerate(test)]
    _write_csv(folder / "MSRVTT_JSFUSION_test.csv", ["key", "vid_key", "video_id", "sentence"], rows)
    names = [*train, *val, *test]
    sentences = [{"video_id": name, "caption": f"caption {k} of {name}"} for name in names for k in (0, 1)]
    data = {"videos": [{"video_id": name} for name in names], "sentences": sentences}
    (folder / "MSRVTT_data.json").write_text(json.dumps(data), encoding="utf-8")


def write_collection(folder: Path, train: int = 8, val: int = 2, test: int = 4) -> list[str]:
    """Writes a collection in MSR-VTT's format with all its videos. Returns their ids, training first."""
    names = [f"video{number}" for number in range(train + val + test)]
    write_msrvtt(folder, names[:train], names[train : train + val], names[train + val :])
    for number, name in enumerate(names):
        write_mp4(folder / "videos" / f"{name}.mp4", frames=20 + number, hue=number)
    return names


def small_params(root: Path, *overrides: str) -> Params:
    """Copies the project's params.yaml to ``root``, and loads it with one task ``small`` in ``data/small``."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    return load_params(root / "params.yaml", [*SMALL, *overrides])


SMALL = (
    "tasks={small: {benchmark: msrvtt, root: data/small, frames: 4, words: 16}}",
    "frames.size=32",
    "frames.shard_videos=2",
    "frames.row_group_videos=2",
    "ray.object_store_mib=128",
)


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Reads every file of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])
