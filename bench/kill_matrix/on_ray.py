"""Kills of runs on Ray: each driver is a process of its own, on one cluster that stays."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import ray

from bench.kill_matrix.cases import Case, Outcome, outcome
from bench.kill_matrix.moments import IN_WORKER
from bench.kill_matrix.run import NAME

ROOT = Path(__file__).parents[2]

PROCESSES = {
    "search actor": "ray::SearchActor",
    "probe actor": "ray::ProbeActor",
    "controller": "ray::TrainController",
}
"""Titles of the processes that are killed from outside, once the log is long enough."""

DRIVER = "driver"

LOG_LINES = 6
"""Longest log, in lines, after which one of those is killed."""

KINDS = [
    *((place, "SIGKILL") for place in (*IN_WORKER, *PROCESSES, DRIVER)),
    ("probe", "SIGKILL of a worker that nobody starts again"),
]

MOST_RUNS = 3


@contextlib.contextmanager
def runs(arguments: argparse.Namespace) -> Iterator[Callable[[Path, Case], Outcome]]:
    """Start a cluster, and give what makes a run on it, kills it, and lets it go on."""
    with tempfile.TemporaryDirectory(prefix="r-") as temporary:
        environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            _temp_dir=temporary,
            log_to_driver=False,
            runtime_env=environment,
        )
        try:
            yield lambda folder, case: _run(folder, case, arguments)
        finally:
            ray.shutdown()


def _run(folder: Path, case: Case, arguments: argparse.Namespace) -> Outcome:
    folder.mkdir()
    address = ray.get_runtime_context().gcs_address
    is_restarted = case.what == "SIGKILL" and case.place != DRIVER
    lanes = "actors" if case.place == "probe actor" else "sequential"
    command = [sys.executable, "-m", "bench.kill_matrix.run", str(folder), "--address", address]
    command += ["--workers", "2", "--config", arguments.config, "--lanes", lanes]
    command += ["--max-failures", str(int(is_restarted))]
    if case.place in IN_WORKER:
        command += ["--moment", case.place, str(case.count), "SIGKILL"]
    deadline_s = time.monotonic() + arguments.timeout_s
    for _ in range(MOST_RUNS):
        with (folder / "output").open("a") as output:
            driver = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        if case.what and case.place not in IN_WORKER and not (folder / "happened").exists():
            _kill_from_outside(driver, folder, case, deadline_s)
        try:
            driver.wait(max(1.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
            return outcome(folder, hung=True)
        if (folder / "outcome.json").exists():
            break
    return outcome(folder, calls=dict.fromkeys(IN_WORKER, 150) | {"sync": 5, "copy": 10})


def _kill_from_outside(
    driver: subprocess.Popen[bytes], folder: Path, case: Case, deadline_s: float
) -> None:
    """Kill a process of the run once its log has some lines, unless the run ends first."""
    log, lines = folder / NAME / "events.jsonl", 3 + case.count % LOG_LINES
    while driver.poll() is None and time.monotonic() < deadline_s:
        if log.exists() and log.read_bytes().count(b"\n") >= lines:
            pids = [driver.pid] if case.place == DRIVER else _pids(PROCESSES[case.place])
            if pids:
                (folder / "happened").touch()
                os.kill(pids[-1], signal.SIGKILL)
                return
        time.sleep(0.02)


def _pids(title: str) -> list[int]:
    """Return this cluster's processes with a title."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] and process.cmdline()[0].startswith(title):
                found.append(process.pid)
    return found
