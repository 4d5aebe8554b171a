"""Search and its index: one query against faiss, recall, opening, memory, embedding, and adding one per cent.

    python bench/search.py [--parts query open embed add] [--rows 10000 100000 1000000] [--json search.json] [--smoke]

The vectors are made: 2,000 clusters in 64 of 512 dimensions, with noise. A query is a vector with noise of its length.
Times of a query are processor time of one thread, and the candidates take turns. faiss comes from
``pip install "reeltune[ann]"``. At 10,000,000 rows the vectors take 20 GB, twice as much next to faiss.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import synthetic
import torch
from measure import Bench
from numpy.typing import NDArray

from components.adapters.file import save_adapter
from components.backbones import mini
from components.frames.store import FrameStore
from components.methods.base import Method
from components.search import near, segment_writer, segments
from components.search.card import FORMAT, IndexCard, write_index_card
from components.search.embed import Block, Embedder, Encoding, run_alone
from components.search.index import Recipe, grow, publish, read
from components.search.rows import rows_of
from components.search.scores import Vectors
from models import B32, FRAMES, method_on, side_of

PARTS = ("query", "open", "embed", "add")
DIMENSION, TOP = 512, 10
JPEG = bytes(8000)  # about as long as a thumbnail
CPU = torch.device("cpu")


def made_vectors(count: int, seed: int) -> NDArray[np.float32]:
    """float32[count, D], L2-normalised, in clusters that are the same for all seeds."""
    fixed, rng = np.random.default_rng(7), np.random.default_rng(seed)
    centres = fixed.standard_normal((2000, 64), dtype=np.float32)
    spread = fixed.standard_normal((64, DIMENSION), dtype=np.float32) / 8
    found = np.empty((count, DIMENSION), dtype=np.float32)
    for start in range(0, count, 50_000):
        piece = found[start : start + 50_000]
        inner = centres[rng.integers(0, len(centres), len(piece))]
        inner = inner + rng.standard_normal(inner.shape, dtype=np.float32)
        piece[:] = inner @ spread + 0.5 * rng.standard_normal(piece.shape, dtype=np.float32)
        piece /= np.linalg.norm(piece, axis=1, keepdims=True)
    return found


def made_queries(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Vectors with noise as long as themselves, as a text is far from its video."""
    rng = np.random.default_rng(1)
    chosen = vectors[rng.integers(0, len(vectors), count)]
    noisy = chosen + rng.standard_normal(chosen.shape).astype(np.float32) / DIMENSION**0.5
    return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)


def alternately(turns: dict[str, Callable[[int], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of processor time of each, in turns. Each gets the number of the round."""
    found: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            started = time.process_time()
            turn(number)
            found[name].append(1e3 * (time.process_time() - started))
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def recall(found: list[list[tuple[int, float]]], truth: NDArray[np.int64]) -> float:
    """The fraction of the true rows that were found."""
    right = [len({row for row, _ in best} & set(known)) for best, known in zip(found, truth.tolist(), strict=True)]
    return sum(right) / truth.size


def query(bench: Bench, rows: int, scratch: Path) -> None:
    """One query: exact against faiss flat, then approximate with its recall."""
    import faiss

    faiss.omp_set_num_threads(1)
    vectors = made_vectors(rows, 0)
    queries = made_queries(vectors, 20 if bench.smoke else 200)
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(vectors)
    exact, tensors = Vectors([vectors], CPU), torch.from_numpy(queries)
    rounds = 2 if bench.smoke else max(5, min(40, 4_000_000 // rows))
    times = alternately(
        {
            "faiss": lambda n: flat.search(queries[n : n + 1], TOP),
            "exact": lambda n: exact.best(tensors[n : n + 1], TOP),
        },
        min(rounds, len(queries) - 1),
    )
    part = f"query {rows}"
    bench.add(part, faiss_ms=times["faiss"], exact_ms=times["exact"], of_faiss=times["exact"] / times["faiss"])
    _, truth = flat.search(queries, TOP)
    bench.add(part, exact_recall=recall(exact.best(tensors, TOP), truth))
    started = time.perf_counter()
    segment = segments.SegmentCard("made", rows, {})
    card = near.build_near(scratch, [segment], [vectors])
    seconds = time.perf_counter() - started
    fast = Vectors([vectors], CPU, None, near.Near(scratch / card.name, card, ""))
    found = [fast.best(tensors[n : n + 1], TOP)[0] for n in range(len(queries))]
    taken = alternately({"near": lambda n: fast.best(tensors[n : n + 1], TOP)}, min(50, len(queries) - 1))
    bench.add(part, near_ms=taken["near"], near_recall=recall(found, truth))
    bench.add(part, near_build_s=seconds, near_mb=card.file.bytes / 1e6)


def write_made(folder: Path, rows: int) -> None:
    """An index of made vectors with thumbnails of 8 kB for the first thousand rows."""
    method = method_on(mini.NAME, "zero_shot")
    save_adapter(folder, method, task="made", provenance={})
    names = [f"video{number:08d}" for number in range(rows)]
    ones = pa.array(np.ones(rows))
    columns = [
        pa.array(names),
        pa.array([f"videos/{name}.mp4" for name in names]),
        ones,
        ones,
        pa.nulls(rows, pa.string()),
        pa.array(["test"] * rows),
    ]
    table = pa.Table.from_arrays(columns, schema=segments.SHOWN)
    for name in (segments.CONTENT, segments.PLACE, segments.META):
        table = table.append_column(segments.HIDDEN.field(name), pa.array([bytes(16)] * rows, pa.binary(16)))
    jpegs = [JPEG if number < 1000 else b"" for number in range(rows)]
    part = segment_writer.write_rows(folder / "segments" / "made", made_vectors(rows, 0), table, jpegs)
    sha256 = json.loads((folder / "adapter.json").read_text())["sha256"]
    card = IndexCard(FORMAT, "made", rows, DIMENSION, sha256, method.spec, segments=(part,))
    write_index_card(folder, card)


def memory() -> dict[str, float]:
    """Memory of this process in MB: all that is resident, and what is not mapped from files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    return {name: float(kilobytes) / 1e3 for name, kilobytes in found.items()}


def opened(folder: Path) -> dict[str, float]:
    """Opens an index in this process, and asks once."""
    before = memory()
    started = time.perf_counter()
    index = read(folder)
    vectors = index.searched(CPU)
    seconds = time.perf_counter() - started
    after = memory()
    started = time.perf_counter()
    row, _ = vectors.best(torch.from_numpy(index.vectors_of([5])), TOP)[0][0]
    shown = index.table().slice(row, 1).to_pylist()[0], index.thumbnail(row)
    answered = memory()
    assert shown[0]["video_id"] == "video00000005"
    return {
        "open_s": seconds,
        "open_mb": after["VmRSS"] - before["VmRSS"],
        "first_answer_s": time.perf_counter() - started,
        "answered_mb": answered["VmRSS"] - before["VmRSS"] - index.count * DIMENSION * 4 / 1e6,
        "answered_anonymous_mb": answered["RssAnon"] - before["RssAnon"],
    }


def open_made(bench: Bench, rows: int, scratch: Path) -> None:
    """Opening an index in a fresh process. Its vectors do not count as memory of the process: they are mapped."""
    write_made(scratch / "index", rows)
    command = [sys.executable, __file__, "--open", str(scratch / "index")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    bench.add(f"open {rows}", **json.loads(done.stdout))


def embed(bench: Bench, scratch: Path) -> None:
    """Embedding into segments, with reading and decoding, against the encoder alone on frames in memory."""
    model = mini.NAME if bench.smoke else B32
    videos = 4 if bench.smoke else (512 if bench.device.type == "cuda" else 8)
    batch = 2 if bench.smoke else (64 if bench.device.type == "cuda" else 4)
    method = method_on(model, "zero_shot").eval().to(bench.device)
    store = _store(scratch / "frames", model, videos)
    embedder = Embedder(method, store, Encoding(batch, threads=1))
    rows, number = rows_of(store, "test"), iter(range(1000))
    frames = torch.randn(batch, FRAMES, 3, side_of(model), side_of(model), device=bench.device)
    mask = torch.ones(batch, FRAMES, dtype=torch.bool, device=bench.device)

    def encoder(_: int) -> None:
        with torch.no_grad():
            for _turn in range(videos // batch):
                method.encode_video(frames, mask)
        bench.drain()

    def whole(_: int) -> None:
        embedder.embed(rows, scratch / f"segment{next(number)}")

    times: dict[str, list[float]] = {"encoder": [], "whole": []}
    for turn in range(2 if bench.smoke else 6):
        for name, run in (("encoder", encoder), ("whole", whole)):
            started = time.perf_counter()
            run(turn)
            times[name].append(time.perf_counter() - started)
    alone, both = (statistics.median(times[name][1:]) for name in ("encoder", "whole"))
    bench.add("embed", model=model, encoder_per_s=videos / alone, index_per_s=videos / both, of_encoder=both / alone)


def add(bench: Bench, scratch: Path) -> None:
    """An index of made videos on the mini backbone, then one per cent more of them."""
    videos = 100 if bench.smoke else 1000
    method = method_on(mini.NAME, "zero_shot").eval()
    save_adapter(scratch / "adapter", method, task="synthetic", provenance={})
    seconds, embedded = {}, {}
    for name, count in (("whole", videos), ("added", videos + videos // 100)):
        store = _store(scratch / f"frames-{name}", mini.NAME, count)
        started = time.perf_counter()
        embedded[name] = _grow(method, store, scratch)
        seconds[name] = time.perf_counter() - started
    bench.add("add", videos=float(videos), whole_s=seconds["whole"], added=float(embedded["added"]))
    bench.add("add", added_s=seconds["added"], of_whole=seconds["added"] / seconds["whole"])


def _grow(method: Method, store: FrameStore, scratch: Path) -> int:
    """Publishes the next version of the index in a folder. Returns how many videos were embedded."""
    sha256 = json.loads((scratch / "adapter" / "adapter.json").read_text())["sha256"]
    encoding, made = Encoding(64, threads=1), list[Block]()

    def run(blocks: Sequence[Block]) -> None:
        made.extend(blocks)
        run_alone(Embedder(method, store, encoding), blocks)

    recipe = Recipe(sha256, encoding, "bench")
    index = grow(method, store, "test", recipe, scratch / "grown", scratch / "work", run)
    publish(index, scratch / "grown", scratch / "adapter", {})
    return sum(len(block.rows) for block in made)


def _store(folder: Path, model: str, videos: int) -> FrameStore:
    few = synthetic.few(synthetic.smooth(FRAMES, side_of(model)), 8)
    synthetic.write_store(folder, videos, few, quality=90)
    return FrameStore(folder)


def measure(bench: Bench, part: str, rows: int, scratch: Path) -> None:
    """Runs one part."""
    if part == "query":
        query(bench, rows, scratch)
    elif part == "open":
        open_made(bench, rows, scratch)
    else:
        {"embed": embed, "add": add}[part](bench, scratch)


def main() -> None:
    """Runs the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 100_000, 1_000_000], help="rows of an index")
    parser.add_argument("--json", type=Path, help="writes the results to this file too")
    parser.add_argument("--smoke", action="store_true", help="the smallest sizes")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.open:
        print(json.dumps(opened(args.open)))
        return
    bench, sizes = Bench(args.smoke), [5_000] if args.smoke else args.rows
    bench.add("machine", device=torch.cuda.get_device_name() if bench.device.type == "cuda" else "CPU")
    if "query" in args.parts and not near.is_installed():
        parser.error(f"faiss is not installed: {near.INSTALL}")
    runs = [("query", rows) for rows in sizes] + [("open", sizes[-1]), ("embed", 0), ("add", 0)]
    for part, rows in [run for run in runs if run[0] in args.parts]:
        with tempfile.TemporaryDirectory() as folder:
            measure(bench, part, rows, Path(folder))
    if args.json:
        args.json.write_text(json.dumps(bench.found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
