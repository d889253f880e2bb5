"""Kills of runs in process: each run is a fork of a server that has imported everything."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.kill_matrix.cases import Case, Outcome, ends_in_time, outcome
from bench.kill_matrix.forks import Driver
from bench.kill_matrix.moments import DEAD, FULL, IN_PROCESS

KINDS = [
    *((place, "SIGKILL") for place in IN_PROCESS),
    *((place, "SIGTERM") for place in ("probe", "apply", "write")),
    ("write", FULL),
    ("write", DEAD),
]

MORE_RUNS = 2
"""After those that are killed: the one that goes on, and one more."""


@contextlib.contextmanager
def runs(arguments: argparse.Namespace) -> Iterator[Callable[[Path, Case], Outcome]]:
    """Give what makes a run, kills it, and lets it go on to its end."""

    def run(folder: Path, case: Case) -> Outcome:
        folder.mkdir()
        given = {"kind": arguments.config}
        for _ in range(len(case.counts) + MORE_RUNS):
            process = Driver(folder, case, given)
            if not ends_in_time(folder, process.is_alive, arguments.timeout_s, lambda: None):
                process.end()
                return outcome(folder, hung=True)
            if (folder / "outcome.json").exists():
                break
        return outcome(folder)

    yield run
