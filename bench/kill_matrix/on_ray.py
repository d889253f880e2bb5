"""Kills of runs on Ray: each driver is a process of its own, on one cluster that stays."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.kill_matrix import cluster
from bench.kill_matrix.cases import HAPPENED, Case, Outcome, ends_in_time, outcome
from bench.kill_matrix.forks import Driver
from bench.kill_matrix.moments import DEAD, FULL, IN_WORKER
from bench.kill_matrix.run import NAME

PROCESSES = {
    "search actor": "ray::SearchActor",
    "probe actor": "ray::ProbeActor",
    "controller": "ray::TrainController",
}
"""Titles of the processes that are killed from outside, once the log is long enough."""

DRIVER = "driver"
RAYLET = "raylet"
DRAINED = "drained"

NOT_STARTED_AGAIN = "worker that Ray Train does not start again"
"""As ``probe``, but with ``max_failures=0``: the run ends with an error, and goes on by name."""

KINDS = [
    *((place, "SIGKILL") for place in (*IN_WORKER, NOT_STARTED_AGAIN, *PROCESSES, DRIVER, RAYLET)),
    *((place, "SIGTERM") for place in ("probe", "apply", DRIVER)),
    ("write", FULL),
    ("write", DEAD),
    (RAYLET, DRAINED),
]

LOG_LINES = 6
"""Longest log, in lines, after which a process is killed from outside."""

MORE_RUNS = 2
DRAIN_S = 20.0
"""From the notice until a node is taken away."""


@contextlib.contextmanager
def runs(arguments: argparse.Namespace) -> Iterator[Callable[[Path, Case], Outcome]]:
    """Start a cluster, and give what makes a run on it, kills it, and lets it go on."""
    with cluster.nodes() as nodes:
        yield lambda folder, case: _run(folder, case, arguments, nodes)


def _run(folder: Path, case: Case, arguments: argparse.Namespace, nodes: cluster.Nodes) -> Outcome:
    folder.mkdir()
    ends_driver = case.place in (DRIVER, "controller", NOT_STARTED_AGAIN)
    given = {
        "kind": arguments.config,
        "workers": 2,
        "lanes": "actors" if case.place == "probe actor" else "sequential",
        "max_failures": 0 if ends_driver else len(case.counts),
        "address": nodes.address,
        "resources": None,
    }
    if case.place == RAYLET:
        nodes.fill()
        given["resources"] = {"CPU": 1, cluster.AWAY: 1}
    in_worker = case
    if case.place == NOT_STARTED_AGAIN:
        in_worker = Case("probe", case.what, case.counts)
    for _ in range(len(case.counts) + MORE_RUNS):
        driver = Driver(folder, in_worker, given)
        killer = _Killer(folder, case, driver, nodes)
        if not ends_in_time(folder, driver.is_alive, arguments.timeout_s, killer.look):
            driver.end()
            return outcome(folder, hung=True)
        if (folder / "outcome.json").exists():
            break
    return outcome(folder)


class _Killer:
    """Kills processes of a run from outside, each once the log has some lines more."""

    def __init__(self, folder: Path, case: Case, driver: Driver, nodes: cluster.Nodes) -> None:
        self._folder = folder
        self._case = case
        self._driver = driver
        self._nodes = nodes
        self._lines = self._log_lines()

    def look(self) -> None:
        case = self._case
        if not case.what or case.place in (*IN_WORKER, NOT_STARTED_AGAIN):
            return
        happened = len([*self._folder.glob(f"{HAPPENED}-*")])
        if happened == len(case.counts):
            return
        lines = self._log_lines()
        least = 3 + case.counts[happened] % LOG_LINES
        if lines - self._lines >= least and self._kill():
            (self._folder / f"{HAPPENED}-{happened}").touch()
            self._lines = lines

    def _kill(self) -> bool:
        case = self._case
        if case.place == RAYLET:
            drains = case.what == DRAINED
            return self._nodes.drain(DRAIN_S) if drains else self._nodes.kill_raylet()
        number = signal.Signals[case.what]
        if case.place == DRIVER:
            self._driver.kill(number)
            return True
        found = cluster.pids(PROCESSES[case.place])
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[-1], number)
        return bool(found)

    def _log_lines(self) -> int:
        log = self._folder / NAME / "events.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0
