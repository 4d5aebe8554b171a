"""Makes an embedded collection: MP4 files of moving shapes, with captions in a published annotation format."""

import argparse
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import _here  # noqa: F401

from components import cli, storage
from components.embedded import annotations, collections
from components.errors import ConfigError

COLLECTIONS = {
    "shapes-clips": (collections.plan_clips, annotations.write_msrvtt, "clips"),
    "shapes-stories": (collections.plan_stories, annotations.write_activitynet, "stories"),
}


def write(folder: Path, size: int, fps: int, plan: collections.VideoPlan) -> None:
    """Writes one video. The name of the file is the id without the prefix of ActivityNet."""
    collections.write_video(plan, folder / f"{plan.video_id.removeprefix('v_')}.mp4", size, fps)


def run(stage: cli.Stage) -> None:
    """params -> data/<task>: videos/ and annotations."""
    name, demo = stage.args.task, stage.params.demo
    if name not in COLLECTIONS:
        raise ConfigError("no such embedded collection", where="--task", found=name, expected=" or ".join(COLLECTIONS))
    make_plans, write_annotations, sizes = COLLECTIONS[name]
    plans = make_plans(getattr(demo, sizes), demo.seed)
    folder = stage.path(stage.params.task(name).root)
    unfinished = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    videos = unfinished / "videos"
    videos.mkdir(parents=True)
    work = partial(write, videos, demo.size, demo.fps)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(work, plans, chunksize=32), 1):
            if done % 500 == 0 or done == len(plans):
                print(f"{name}: {done}/{len(plans)} videos", flush=True)
    write_annotations(plans, unfinished)
    storage.move_folder(unfinished, folder)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the script."""
    parser.add_argument("--task", required=True, help="shapes-clips or shapes-stories")


if __name__ == "__main__":
    cli.main(run, __doc__ or "", arguments)
