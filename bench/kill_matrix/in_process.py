"""Kills of runs in process: each run is a fork of a server that has imported everything."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench.kill_matrix.cases import Case, Outcome, outcome
from bench.kill_matrix.moments import FULL, IN_PROCESS, Moment, count_calls
from bench.kill_matrix.run import fit

KINDS = [
    *((place, "SIGKILL") for place in IN_PROCESS),
    *((place, "SIGTERM") for place in ("probe", "apply", "write")),
    ("write", FULL),
]

MOST_RUNS = 3
"""The killed one, the one that goes on, and one more."""


@contextlib.contextmanager
def runs(arguments: argparse.Namespace) -> Iterator[Callable[[Path, Case], Outcome]]:
    """Give what makes a run, kills it, and lets it go on to its end."""
    given = argparse.Namespace(
        config=arguments.config, lanes="sequential", workers=0, max_failures=0
    )

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def run(folder: Path, case: Case) -> Outcome:
        folder.mkdir()
        moment = (
            Moment(case.place, case.count, case.what, folder / "happened") if case.what else None
        )
        for _ in range(MOST_RUNS):
            process = context.Process(target=_fit, args=(folder, given, moment))
            process.start()
            process.join(arguments.timeout_s)
            if process.is_alive():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGUSR2)  # writes its stacks
                process.join(5)
                process.kill()
                return outcome(folder, hung=True)
            if (folder / "outcome.json").exists():
                break
        calls = folder / "calls.json"
        return outcome(folder, calls=json.loads(calls.read_text()) if calls.exists() else None)

    yield run


def _fit(folder: Path, arguments: argparse.Namespace, moment: Moment | None) -> None:
    """Run in a fork, with its output in a file."""
    torch.set_num_threads(1)
    file = (folder / "output").open("a")
    os.dup2(file.fileno(), sys.stdout.fileno())
    os.dup2(file.fileno(), sys.stderr.fileno())
    faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)
    counts = count_calls() if moment is None else {}
    fit(folder, arguments, moment)
    if counts:
        calls = {place: countdown.calls for place, countdown in counts.items()}
        (folder / "calls.json").write_text(json.dumps(calls))
