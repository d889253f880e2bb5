"""Runs in processes of one thread each."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.measurement import commit

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


def append_missing(
    make: Callable[[Run], dict[str, Any]],
    runs: Sequence[Run],
    made: Container[Run],
    path: Path,
    processes: int,
) -> Iterator[dict[str, Any]]:
    """Make the runs that a file of JSON lines lacks; append each as it ends, and yield it.

    Args:
        make: returns a run's line, without the commit.
        runs: all that are wanted.
        made: those that the file has.
        path: of the file.
        processes: see :func:`in_processes`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    made_at = commit()
    for line in in_processes(make, [run for run in runs if run not in made], processes):
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "commit": made_at}) + "\n")
        yield line
