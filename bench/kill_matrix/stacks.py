"""Stacks of a process that hangs, written when it is asked."""

from __future__ import annotations

import faulthandler
import os
import signal
from pathlib import Path

STACKS = signal.SIGUSR2


def write_stacks_when_asked(folder: Path) -> None:
    """Let this process write its threads' stacks into a run's folder at a signal."""
    file = (folder / f"stacks.{os.getpid()}").open("w")
    faulthandler.register(STACKS, file=file, all_threads=True)


def ask_for_stacks(folder: Path) -> None:
    """Ask all processes of a run that are there."""
    for file in folder.glob("stacks.*"):
        try:
            os.kill(int(file.suffix[1:]), STACKS)
        except ProcessLookupError:
            continue
