"""The cost of ingest compared with plain loops over the same files: processor seconds per video, on one core.

    python bench/ingest.py [--parts decode ingest long scaling read] [--rounds 5] [--clips FOLDER]

decode   12 frames at 224. The baselines are (a) OpenCV with a seek to every second and a resize, as in the extractor of
         the CLIP4Clip family; (b) decord in a loop; (c) PyAV decoding every frame and keeping none, which is the limit
         where key frames are rare. They are compared with opening the file, the packet check, and the project's
         decoders with resize and JPEG, in this process and in an isolated one
ingest   the whole of `pipelines/ingest.py`, with all its processes: what a video adds, and the start of Ray
long     an hour of 1080p with a key frame every two seconds, 12 frames, compared with (d) decoding only the groups of
         pictures that contain them
scaling  wall clock of the whole with one process and with two
read     shuffled frames from a store, read and decoded, by quality, with their bytes and the loss of JPEG

Files are generated (320 x 240, 25 fps, 20 s, H.264, key frames up to 10 s apart). The MP4s of ``--clips`` come first if
given. Candidates run in separate processes and take turns. Medians are compared. (a) needs ``opencv-python-headless``.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import shutil
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import interleaved
import numpy as np
import synthetic
from interleaved import Times
from numpy.typing import NDArray
from PIL import Image

from components.frames.jpeg import decode_frames, encode_frames
from components.frames.store import FrameStore
from components.ingest.decoders import DECODERS, auto
from components.ingest.decoders.packets import open_video, read_packets
from components.ingest.resize import resize_frames
from components.ingest.run import ingest, read_settings
from components.ingest.sampling import chooser
from components.params import Params, TaskEntry, load_params

ROOT = Path(__file__).resolve().parents[1]
FRAMES, SIZE = 12, 224
TASK = "bench"


def write_video(path: Path, seed: int, seconds: int, width: int, height: int, gop: int) -> None:
    """Writes noise that drifts over smooth colours, which is as hard to decode as camera footage."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16, width // 16 * 2, 3)).astype(np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((2 * width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = np.clip(scene + rng.normal(0, 6, scene.shape), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": str(gop), "crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(25 * seconds):
            left = index * 3 % width
            picture = np.ascontiguousarray(noisy[:, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def opencv_seconds(path: str) -> None:
    """Seeks to one frame per second, resizes each with PIL, and picks twelve of them."""
    import cv2  # optional, and only needed here

    video = cv2.VideoCapture(path)
    fps = int(video.get(cv2.CAP_PROP_FPS))
    pictures = []
    for second in range((int(video.get(cv2.CAP_PROP_FRAME_COUNT)) + fps - 1) // fps):
        video.set(cv2.CAP_PROP_POS_FRAMES, second * fps)
        good, frame = video.read()
        if not good:
            break
        picture = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        scale = SIZE / min(picture.size)
        size = int(picture.width * scale), int(picture.height * scale)
        pictures.append(np.asarray(picture.resize(size, Image.Resampling.BICUBIC)))
    np.stack([pictures[index] for index in np.linspace(0, len(pictures) - 1, FRAMES).astype(int)])
    video.release()


def plain_decord(path: str) -> None:
    """Reads frames as published code does, without resizing or storing them."""
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    reader.get_batch(np.linspace(0, len(reader) - 1, FRAMES).astype(int)).asnumpy()


def every_frame(path: str) -> None:
    """Decodes all frames and keeps none."""
    with av.open(path) as container:
        container.streams.video[0].thread_count = 1
        for _ in container.decode(video=0):
            pass


def groups_of_pictures(path: str) -> None:
    """Decodes from the key frame before each of twelve frames to that frame, and keeps none."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        assert stream.duration is not None
        length = stream.duration // stream.frames
        for index in np.linspace(0, stream.frames - 1, FRAMES).astype(int):
            wanted = int(index) * length
            container.seek(wanted, stream=stream)
            for frame in container.decode(stream):
                if frame.pts is not None and frame.pts >= wanted:
                    break


def in_process(decoder: str) -> Callable[[str], None]:
    """Returns what the isolated process does for a video, without the check of the file: decode, resize, JPEG."""
    decode = DECODERS.get(decoder)

    def one(path: str) -> None:
        decoded = decode(path, chooser("uniform", FRAMES, None, None, seed=""))
        encode_frames(resize_frames(decoded.frames, SIZE), 95)

    return one


def isolated(decoder: str) -> Callable[[str], None]:
    """Returns the same in an isolated process, called by messages."""
    settings = read_settings(task_params().task(TASK), replace(task_params().frames, decoder=decoder))
    process = settings.process()

    def one(path: str) -> None:
        outcome = process.decode(path, None, None)
        if outcome.reason is not None:
            raise RuntimeError(f"{path}: {outcome.reason} {outcome.detail}")

    return one


def task_params(cpus: int = 1, shard: int = 128, decoder: str = "auto") -> Params:
    """Returns the project's settings with one task of 12 frames at 224."""
    params = load_params(ROOT / "params.yaml")
    task = TaskEntry(benchmark="table", root=f"data/{TASK}", frames=FRAMES, words=32, options={})
    frames = replace(params.frames, size=SIZE, sampling="uniform", shard_videos=shard, decoder=decoder)
    ray = replace(params.ray, num_cpus=cpus)
    return replace(params, tasks={TASK: task}, frames=frames, ray=ray)


def only_open(path: str) -> None:
    """Opens a file, as any decoder does first."""
    with open_video(path):
        pass


def check(path: str) -> None:
    """Opens a file and reads the packets, as ``auto`` does to choose."""
    with open_video(path) as (container, stream):
        table = read_packets(container, stream)
    auto.why_not_plain(table)
    auto.costs_pyav_less(table)


GROUPS = "(d) groups of pictures"
# How often a turn reads each file. The kernel counts processor time in hundredths of a second.
REPEATS = 4

DECODE: dict[str, Callable[[], Callable[[str], None]]] = {
    "(a) opencv, every second": lambda: opencv_seconds,
    "(b) decord": lambda: plain_decord,
    "(c) every frame, none kept": lambda: every_frame,
    GROUPS: lambda: groups_of_pictures,
    "open, no more": lambda: only_open,
    "open and packet check": lambda: check,
    "decord in process": lambda: in_process("decord"),
    "pyav in process": lambda: in_process("pyav"),
    "auto in process": lambda: in_process("auto"),
    "auto isolated": lambda: isolated("auto"),
}


def copies(folder: Path, files: Sequence[str], count: int) -> Path:
    """Makes a project with one task of ``count`` copies of the files. No two have the same content."""
    videos = folder / "data" / TASK / "videos"
    videos.mkdir(parents=True)
    for number in range(count):
        # A box that players skip. Without it, equal content would be decoded once only.
        box = struct.pack(">I4sQ", 16, b"free", number)
        content = Path(files[number % len(files)]).read_bytes() + box
        (videos / f"video{number:04d}.mp4").write_bytes(content)
    return folder


def whole(root: Path, cpus: int, shard: int, decoder: str) -> Callable[[], object]:
    """Returns the whole ingest of a project, from the beginning."""

    def turn() -> None:
        for folder in (".reeltune", "outputs"):
            shutil.rmtree(root / folder, ignore_errors=True)
        params = task_params(cpus, shard, decoder)
        ingest(root, TASK, params.task(TASK), params.frames, params.ray)

    return turn


def prepare(name: str, arguments: dict[str, Any]) -> Callable[[], object]:
    """Returns what one turn of candidate ``name`` does."""
    if name.startswith("ingest"):
        cpus = arguments.get("cpus", {}).get(name, 1)
        return whole(Path(arguments["roots"][name]), cpus, arguments["shard"], arguments["decoder"])
    files, one = arguments["files"], DECODE[name]()

    def turn() -> None:
        for file in files:
            one(file)

    return turn


def runnable(wanted: Sequence[str]) -> list[str]:
    """Returns the candidates that can run here."""
    if importlib.util.find_spec("cv2") is None:
        print("(a) is left out: opencv-python-headless is not installed", file=sys.stderr)
        return [name for name in wanted if not name.startswith("(a)")]
    return list(wanted)


def table(title: str, times: dict[str, Times], per_turn: dict[str, int]) -> None:
    """Prints milliseconds of processor time per video, and ratios."""
    print(f"\n{title}\n{'':30}{'ms/video':>10}{'of (c)':>8}{'(a) / it':>10}")
    each = {name: 1000 * turns.seconds / per_turn[name] for name, turns in times.items()}
    a, c = each.get("(a) opencv, every second"), each["(c) every frame, none kept"]
    for name, value in each.items():
        print(f"{name:30}{value:>10.1f}{value / c:>8.2f}{'' if a is None else f'{a / value:>10.2f}'}", flush=True)


def decode(files: list[str], rounds: int) -> None:
    """Compares loops, decoders and isolation."""
    names = runnable([name for name in DECODE if name != GROUPS])
    times = interleaved.measure(__file__, names, rounds, {"files": REPEATS * files})
    table(f"decode, {len(files)} videos", times, dict.fromkeys(names, REPEATS * len(files)))
    opened, checked, inside, isolated_cpu = (
        times[name].cpu for name in ("open, no more", "open and packet check", "auto in process", "auto isolated")
    )
    ratios = [
        ((two - one) + (four - three)) / (three - (two - one))
        for one, two, three, four in zip(opened, checked, inside, isolated_cpu, strict=True)
    ]
    print(f"check and isolation: {statistics.median(ratios):.1%} of auto in process without the check")


def ingest_whole(files: list[str], rounds: int, decoder: str, few: int = 128, count: int = 384) -> None:
    """Measures the whole with all its processes: what each video adds, and what the start costs once."""
    with tempfile.TemporaryDirectory(dir=Path(files[0]).parent) as folder:
        roots = {f"ingest {number}": str(copies(Path(folder) / str(number), files, number)) for number in (few, count)}
        names = [*runnable(list(DECODE)[:1]), "(c) every frame, none kept", *roots]
        times = interleaved.measure(
            __file__, names, rounds, {"files": files, "roots": roots, "shard": few, "decoder": decoder}
        )
    less, more = (times.pop(name).cpu for name in roots)
    gains = [big - small for small, big in zip(less, more, strict=True)]
    added = Times(cpu=gains)
    table(
        f"ingest by {decoder}, what each video adds ({few} to {count} videos)",
        {**times, "ingest": added},
        {**dict.fromkeys(times, len(files)), "ingest": count - few},
    )
    start = statistics.median(less) - few * added.seconds / (count - few)
    print(f"start of Ray and its processes: {start:.1f} s of processor time, once")


def scaling(files: list[str], rounds: int, decoder: str, few: int = 256, count: int = 768) -> None:
    """Measures the wall clock of decoding with one process and with two, without the start of Ray."""
    with tempfile.TemporaryDirectory(dir=Path(files[0]).parent) as folder:
        names = [f"ingest {number} by {cpus}" for number in (few, count) for cpus in (1, 2)]
        roots = {name: str(copies(Path(folder) / name, files, int(name.split()[1]))) for name in names}
        cpus = {name: int(name.split()[3]) for name in names}
        arguments = {"files": files, "roots": roots, "cpus": cpus, "shard": few // 2, "decoder": decoder}
        times = interleaved.measure(__file__, names, rounds, arguments)
    wall = {name: statistics.median(turns.wall) for name, turns in times.items()}
    one, two = (wall[f"ingest {count} by {cpus}"] - wall[f"ingest {few} by {cpus}"] for cpus in (1, 2))
    print(f"\nscaling, {count - few} videos: {one:.2f} s by one process, {two:.2f} s by two, {one / two:.2f} times")


def repeat(source: Path, target: Path, times: int) -> None:
    """Writes the packets of a file again and again, without decoding them."""
    with av.open(str(source)) as first:
        stream = first.streams.video[0]
        packets = [packet for packet in first.demux(stream) if packet.size]
        length = stream.duration or 0
        with av.open(str(target), "w") as container:
            copied = container.add_stream_from_template(stream)
            for number in range(times):
                for packet in packets:
                    assert packet.pts is not None
                    assert packet.dts is not None
                    packet.stream = copied
                    packet.pts += length * bool(number)
                    packet.dts += length * bool(number)
                    container.mux(packet)


def long(folder: Path, rounds: int, minutes: int) -> None:
    """Measures a long HD file, and the memory that it takes."""
    write_video(folder / "minute.mp4", 0, 60, 1920, 1080, gop=50)
    repeat(folder / "minute.mp4", folder / "long.mp4", minutes)
    names = [GROUPS, "decord in process", "pyav in process", "auto in process"]
    times = interleaved.measure(__file__, names, rounds, {"files": [str(folder / "long.mp4")]})
    print(f"\nlong, {minutes} min of 1080p\n{'':30}{'ms':>10}{'of (d)':>8}{'MiB':>8}")
    for name, turns in times.items():
        ratio = turns.seconds / times[GROUPS].seconds
        print(f"{name:30}{1000 * turns.seconds:>10.0f}{ratio:>8.2f}{turns.memory_mib:>8.0f}", flush=True)


def read(folder: Path, files: list[str], videos: int = 512, each: int = 60) -> None:
    """Reads stores of the files' frames in random order, whole and as squares: rate, bytes and the loss of JPEG."""
    print(f"\nread, {videos} videos x {FRAMES} frames, shuffled, one thread")
    wanted = chooser("uniform", each, None, None, seed="")
    resized = [resize_frames(DECODERS.get("pyav")(file, wanted).frames, SIZE) for file in files]
    # Frames of a store may differ in shape. Here all have the first file's.
    whole_frames = np.concatenate([frames for frames in resized if frames.shape[1:] == resized[0].shape[1:]])
    left = (whole_frames.shape[2] - SIZE) // 2
    for frames in (whole_frames, whole_frames[:, :, left : left + SIZE]):
        for quality, chroma in ((95, 444), (90, 444), (90, 420)):
            store_folder = folder / f"store-{frames.shape[2]}-{quality}-{chroma}"
            synthetic.write_store(store_folder, videos, functools.partial(_cycle, frames), quality, chroma)
            found = _reading(store_folder, frames)
            print(f"{frames.shape[2]} x {SIZE}, quality {quality}, {chroma}: {found}", flush=True)


def _cycle(frames: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    return frames[np.arange(number * FRAMES, (number + 1) * FRAMES) % len(frames)]


def _reading(store_folder: Path, frames: NDArray[np.uint8]) -> str:
    store = FrameStore(store_folder)
    ids = store.ids("test")
    order = [ids[index] for index in np.random.default_rng(0).permutation(len(ids))]
    rates = []
    for _ in range(5):
        start = time.process_time()
        count = sum(len(decode_frames(video.frames)) for video in store.read(order))
        rates.append(count / (time.process_time() - start))
    kib = sum(shard.bytes for shard in store.card.shards) / len(ids) / FRAMES / 1024
    loss = []
    for place, video in enumerate(store.read(ids[: len(frames) // FRAMES])):
        wrong = np.square(decode_frames(video.frames).astype(np.float32) - _cycle(frames, place)).mean((1, 2, 3))
        loss += list(10 * np.log10(255**2 / wrong))
    psnr = f"{np.mean(loss):.1f} dB on average, {min(loss):.1f} the worst"
    return f"{statistics.median(rates):.0f} frames/s/core, {kib:.1f} KiB per frame, {psnr}"


def main() -> None:
    """Runs all parts, or serves one candidate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["decode", "ingest", "scaling", "long", "read"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=5, help="counted turns of each candidate")
    parser.add_argument("--clips", type=Path, help="folder of MP4 files that are measured too")
    parser.add_argument(
        "--decoder", choices=["auto", "decord", "pyav"], default="auto", help="decoder of the whole ingest"
    )
    parser.add_argument("--generated", type=int, default=8, help="number of generated files")
    parser.add_argument("--minutes", type=int, default=60, help="length of the long file")
    args = interleaved.arguments(parser, prepare)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = []
        for number, clip in enumerate(sorted(args.clips.glob("*.mp4")) if args.clips else ()):
            files.append(str(shutil.copy(clip, folder / f"clip{number}.mp4")))
        for number in range(args.generated):
            write_video(folder / f"made{number}.mp4", number, 20, 320, 240, gop=250)
            files.append(str(folder / f"made{number}.mp4"))
        if "decode" in args.parts:
            decode(files, args.rounds)
        if "ingest" in args.parts:
            ingest_whole(files, args.rounds, args.decoder)
        if "scaling" in args.parts:
            scaling(files, args.rounds, args.decoder)
        if "long" in args.parts:
            long(folder, args.rounds, args.minutes)
        if "read" in args.parts:
            read(folder, files)


if __name__ == "__main__":
    main()
