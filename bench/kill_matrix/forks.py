"""Drivers of runs, each a fork of a server that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench.kill_matrix.cases import Case
from bench.kill_matrix.run import fit
from bench.kill_matrix.stacks import ask_for_stacks, write_stacks_when_asked

STACKS_S = 5.0
"""Time for all processes of a run that hangs to write their stacks."""


class Driver:
    """A process that calls ``fit``."""

    def __init__(self, folder: Path, case: Case, given: dict[str, Any]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._process = context.Process(target=_fit, args=(folder, case, given))
        self._folder = folder
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def is_alive(self) -> bool:
        """Tell whether it has not ended."""
        return self._process.is_alive()

    def kill(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def end(self) -> None:
        """Have all processes of the run write their stacks, and kill this one."""
        ask_for_stacks(self._folder)
        time.sleep(STACKS_S)
        self._process.kill()
        self._process.join()


def _fit(folder: Path, case: Case, given: dict[str, Any]) -> None:
    """Run in a fork, with its output in a file."""
    torch.set_num_threads(1)
    file = (folder / "output").open("a")
    os.dup2(file.fileno(), sys.stdout.fileno())
    os.dup2(file.fileno(), sys.stderr.fileno())
    write_stacks_when_asked(folder)
    fit(folder, case, **given)
