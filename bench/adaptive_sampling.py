"""How often each sampling rule sees a short event that was drawn into a video, and what the rule costs.

    dvc repro demo
    python bench/adaptive_sampling.py

The videos are those of shapes-stories' test split, single (6 s) and five in a row (30 s). Each is decoded and encoded
again with a white disc that appears for 0.3 s somewhere. The real decoding process samples them. "Seen" means that a
stored frame shows the disc. "Decode" is the CPU time of the decoding process per video, relative to `segment_center`.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from components.ingest.isolation import DecodeProcess, Recipe
from components.ingest.sampling import ADAPTIVE, RULES

FRAMES = 12
EVENT_SECONDS = 0.3
DECODER = "components.ingest.decoders.decord:decode"


def read_video(path: Path) -> list[NDArray[np.uint8]]:
    """Decodes all frames, ``uint8[H, W, 3]`` each."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in container.decode(video=0)]


def write_video(path: Path, frames: list[NDArray[np.uint8]], fps: int) -> None:
    """Encodes H.264 as the embedded collections do."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def plant(frames: list[NDArray[np.uint8]], fps: int, rng: np.random.Generator) -> set[int]:
    """Draws the disc into consecutive frames, and returns their numbers."""
    length = round(EVENT_SECONDS * fps)
    first = int(rng.integers(0, len(frames) - length))
    size = frames[0].shape[0]
    y, x = np.mgrid[:size, :size]
    centre = rng.uniform(0.2, 0.8, 2) * size
    disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (0.12 * size) ** 2
    for index in range(first, first + length):
        frames[index] = np.where(disc[..., None], np.uint8(255), frames[index])
    return set(range(first, first + length))


def main() -> None:
    """Prints a table per length of video."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/shapes-stories"))
    parser.add_argument("--videos", type=int, default=100)
    parser.add_argument("--fps", type=int, default=10)
    args = parser.parse_args()
    ids = [key.removeprefix("v_") for key in json.loads((args.data / "val_1.json").read_text())]
    rng = np.random.default_rng(0)
    print(f"{args.videos} videos, {FRAMES} frames each, an event of {EVENT_SECONDS} s")
    print(f"{'length':>8}  {'sampling':<15} {'seen':>6}  {'decode':>7}")
    for stories in (1, 5):
        with tempfile.TemporaryDirectory() as folder:
            planted: dict[Path, set[int]] = {}
            for number in range(args.videos):
                names = [ids[int(index)] for index in rng.choice(len(ids), stories, replace=False)]
                frames = [frame for name in names for frame in read_video(args.data / "videos" / f"{name}.mp4")]
                path = Path(folder) / f"{number}.mp4"
                planted[path] = plant(frames, args.fps, rng)
                write_video(path, frames, args.fps)
            seconds = len(frames) / args.fps
            costs: dict[str, float] = {}
            for rule in ("segment_center", *(name for name in RULES if name != "segment_center"), ADAPTIVE):
                seen, costs[rule] = measure(rule, planted)
                ratio = costs[rule] / costs["segment_center"]
                print(f"{seconds:>6.0f} s  {rule:<15} {100 * seen:>5.0f}%  {ratio:>6.2f}x", flush=True)


def measure(rule: str, planted: dict[Path, set[int]]) -> tuple[float, float]:
    """Returns the fraction of videos with a stored frame that shows the event, and CPU seconds per video."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    hits = 0
    with DecodeProcess(Recipe(DECODER, rule, FRAMES, 96, 95), time_limit_seconds=60) as process:
        for path, event in planted.items():
            outcome = process.decode(str(path), None, None)
            if outcome.reason is not None:
                raise SystemExit(f"{path}: {outcome.reason} {outcome.detail}")
            hits += bool(event & set(outcome.row["frame_indices"]))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return hits / len(planted), (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / len(planted)


if __name__ == "__main__":
    main()
