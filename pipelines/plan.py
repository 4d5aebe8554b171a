"""Computes how many cores, hours and bytes an ingest will take, from the measurements of `make bench-ingest`."""

from __future__ import annotations

import argparse

import _here  # noqa: F401

from components import cli
from components.ingest.capacity import GIB, KIB_PER_FRAME, SOURCES, TIB, plan, windows_of


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this script."""
    parser.add_argument("--videos", type=float, nargs="+", default=[1e4, 1e6, 1e9], help="numbers of videos")
    parser.add_argument("--kind", choices=sorted(SOURCES), default="240p", help="kind of video")
    parser.add_argument("--seconds", type=float, default=15.0, help="mean length of a video")
    parser.add_argument("--frames", type=int, default=12, help="frames stored per video")
    parser.add_argument("--windows", type=float, metavar="SECONDS", help="length of the windows, or the mean shot")
    parser.add_argument("--overlap", type=float, default=0.0, help="share of a window that the next one shows too")
    parser.add_argument("--quality", type=int, choices=sorted(KIB_PER_FRAME), default=95, help="JPEG quality at 224 px")
    parser.add_argument("--cores", type=int, nargs="+", default=[16, 256, 4096], help="numbers of cores")
    parser.add_argument("--network", type=float, default=10.0, metavar="GBIT", help="total Gbit/s for reading videos")
    parser.add_argument("--storage", type=float, default=500.0, metavar="MB", help="total MB/s for writing the store")


def body(stage: cli.Stage) -> None:
    """Prints a table with a row per number of videos and cores."""
    args = stage.args
    windows = 0 if args.windows is None else windows_of(args.seconds, args.windows, args.overlap)
    lines = [] if args.windows is None else [f"{windows:,} windows of each video"]
    lines += [
        f"{'videos':>14}{'cores':>7}{'core-hours':>12}{'takes':>10}  {'bound by':<11}{'read':>10}{'store':>10}"
        f"{'shards':>10}{'needs Gbit/s':>14}{'and MB/s':>10}"
    ]
    for videos in args.videos:
        for cores in args.cores:
            found = plan(
                round(videos),
                SOURCES[args.kind],
                seconds=args.seconds,
                frames=args.frames,
                quality=args.quality,
                cores=cores,
                network_gbit=args.network,
                write_mb=args.storage,
                shard_videos=stage.params.frames.shard_videos,
                windows=windows,
            )
            lines.append(
                f"{round(videos):>14,}{cores:>7}{found.core_hours:>12,.1f}{_time(found.hours):>10}  {found.bound:<11}"
                f"{_bytes(found.read_bytes):>10}{_bytes(found.store_bytes):>10}{found.shards:>10,}"
                f"{found.network_gbit:>14.2f}{found.write_mb:>10.0f}"
            )
    cli.show("\n".join(lines))


def _time(hours: float) -> str:
    return f"{60 * hours:,.1f} min" if hours < 1 else f"{hours:,.1f} h" if hours < 48 else f"{hours / 24:,.1f} d"


def _bytes(count: float) -> str:
    return f"{count / TIB:,.1f} TiB" if count >= TIB else f"{count / GIB:,.1f} GiB"


if __name__ == "__main__":
    cli.main(body, __doc__ or "", arguments)
