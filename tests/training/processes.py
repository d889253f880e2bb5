"""Workers in processes of their own, over gloo; what they find comes back in files."""

from __future__ import annotations

import datetime
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from ray_autolrs.training.collectives import Group, ProcessGroup
from tests.training.toy import CPU

TIMEOUT_S = 120

# Each process is forked from a server that has imported this once, which takes longer than any
# test; a fork of pytest itself, which has trained, would not be safe.
multiprocessing.set_forkserver_preload(["torch._dynamo", "tests.training.toy", "pytest"])


def start_workers(function: Callable[[Group], dict[str, Any]], world: int, folder: Path) -> Any:
    """Run ``function(group)`` in ``world`` processes, and return each one's result."""
    running = start_processes(
        _process,
        args=(function, world, str(folder)),
        nprocs=world,
        join=False,
        start_method="forkserver",
    )
    assert running is not None
    deadline_s = time.monotonic() + 2 * TIMEOUT_S
    try:
        # False means that one has ended and others run; an exception in one is raised here.
        while not running.join(timeout=1.0):
            assert time.monotonic() < deadline_s, "the workers did not end in time"
    finally:
        for child in running.processes:
            if child.is_alive():
                child.kill()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(world)]


def _process(
    rank: int, function: Callable[[Group], dict[str, Any]], world: int, folder: str
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=TIMEOUT_S),
    )
    torch.save(function(ProcessGroup(CPU)), Path(folder) / f"rank{rank}.pt")
    dist.barrier()  # gloo aborts a worker whose peer has gone
    dist.destroy_process_group()
