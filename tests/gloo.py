"""Runs a function in several processes that form a gloo group."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

# One process imports these modules, and the ranks are forked from it. Each starts in a second instead of ten.
multiprocessing.set_forkserver_preload(["components.training.job", "components.evaluation.validation"])


def spawn(world: int, function: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """Runs ``function(*args)`` in each rank.

    Args:
        world: The number of ranks.
        function: An importable function.
        folder: Where the results are kept.
        args: The function's arguments.

    Returns:
        The function's result in each rank.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = (world, free_port(), function, folder, args)
    multiprocessing.start_processes(_rank, arguments, nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"result-{rank}.pt", weights_only=False) for rank in range(world)]


def launch(world: int, function: Callable[..., Any], folder: Path, *args: Any) -> list[BaseProcess]:
    """Starts the processes that :func:`spawn` would wait for. A test may end them. Errors only go to stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    port = free_port()
    ranks: list[BaseProcess] = [
        context.Process(target=_rank, args=(rank, world, port, function, folder, args), daemon=True)
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    return ranks


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _rank(rank: int, world: int, port: int, function: Callable[..., Any], folder: Path, args: tuple[Any, ...]) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    try:
        torch.save(function(*args), folder / f"result-{rank}.pt")
    finally:
        dist.destroy_process_group()
