"""Runs in processes of one thread each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Run = TypeVar("Run")
Made = TypeVar("Made")


def in_processes(
    make: Callable[[Run], Made], runs: Sequence[Run], processes: int
) -> Iterator[Made]:
    """Yield what ``make`` returns for each run, in the order they end; 0 processes: in this one."""
    if processes == 0:
        yield from map(make, runs)
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a process starts
    # Spawned, because torch does not like forks; not one for each run, which would read the data.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(make, runs)
