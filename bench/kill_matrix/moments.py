"""The places in a run where its process is killed, or its storage fails.

A moment is a name and counts: at that call of what the name stands for the process gets a signal,
once for each marker file. It is installed where the task is built, so in every worker of a run.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.kill_matrix.cases import HAPPENED
from ray_autolrs.algorithm.stages.messages import Probe
from ray_autolrs.cluster import checkpoint_files, checkpoint_store
from ray_autolrs.cluster.event_log import EventLog
from ray_autolrs.cluster.run_folder import EVENTS_FILE
from ray_autolrs.training import snapshot
from ray_autolrs.training.segment_run import SegmentRun

FULL = "full"
"""In place of a signal: the storage is full from then on, until the process ends."""

DEAD = "dead"
"""In place of a signal: the storage fails in the middle of a file, and is back for the next one."""

IN_WORKER = ("probe", "apply", "restore", "copy", "write", "sync")
IN_PROCESS = (*IN_WORKER, "log")


@dataclass(frozen=True, slots=True)
class Moment:
    """When a process is killed.

    Attributes:
        place: one of ``IN_PROCESS``.
        counts: at which calls there; each counts from the one before, or the process's begin.
        what: a signal's name, ``FULL`` or ``DEAD``.
        folder: gets a file for each time that it has happened.
    """

    place: str
    counts: tuple[int, ...]
    what: str
    folder: Path

    def install(self) -> None:
        """Have it happen in this process."""
        if self.next_one() is not None:
            INSTALL[self.place](_Countdown(self))

    def next_one(self) -> int | None:
        """Return the number of the next kill; None after the last."""
        happened = len([*self.folder.glob(f"{HAPPENED}-*")])
        return happened if happened < len(self.counts) else None


class _Countdown:
    """Lets a moment happen at its calls."""

    def __init__(self, moment: Moment) -> None:
        self._moment = moment
        self._is_full = False
        self._begin()

    def _begin(self) -> None:
        self._number = self._moment.next_one()
        self.left = 0 if self._number is None else self._moment.counts[self._number]

    def __call__(self) -> None:
        if self._is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= 1
        if self.left != 0 or self._number is None:
            return
        try:
            (self._moment.folder / f"{HAPPENED}-{self._number}").touch(exist_ok=False)
        except FileExistsError:  # Another worker was faster.
            self._begin()
            return
        self._begin()
        if self._moment.what == DEAD:
            raise OSError(errno.EIO, "Input/output error")
        self._is_full = self._moment.what == FULL
        if self._is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.kill(os.getpid(), signal.Signals[self._moment.what])


def count_calls(folder: Path) -> None:
    """Count the calls at every place of this process, in files; nothing happens."""
    for place, install in INSTALL.items():
        install(_Counted(folder / f"calls.{place}.{os.getpid()}"))


class _Counted:
    """Counts calls by a file's size."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.left = 0

    def __call__(self) -> None:
        with self._file.open("ab") as file:
            file.write(b".")


Call = _Countdown | _Counted


def _before(owner: Any, name: str, call: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        call()
        return original(*arguments, **named)

    setattr(owner, name, counted)


def _in_steps(*, of_probes: bool) -> Callable[[Call], None]:
    def install(call: Call) -> None:
        run, is_there = SegmentRun.to_its_end, [False]

        def noting(self: SegmentRun, progress: Any) -> bool:
            is_there[0] = isinstance(self.command, Probe) == of_probes
            try:
                return run(self, progress)
            finally:
                is_there[0] = False

        def step() -> None:
            if is_there[0] and torch.is_grad_enabled():
                call()

        SegmentRun.to_its_end = noting  # type: ignore[method-assign]
        STEP_HOOKS.append(step)

    return install


def _in_log(call: Call) -> None:
    append = EventLog.append

    def half(self: EventLog, records: Any) -> None:
        records = list(records)
        if call.left == 1:
            with Path(f"{self._folder.path}/{EVENTS_FILE}").open("a") as file:
                file.write('{"kind": "probe", "sta')
        call()
        append(self, records)

    EventLog.append = half  # type: ignore[method-assign]


STEP_HOOKS: list[Callable[[], None]] = []
"""Called in each forward pass of the task."""

INSTALL: dict[str, Callable[[Call], None]] = {
    "probe": _in_steps(of_probes=True),
    "apply": _in_steps(of_probes=False),
    # The model is restored or copied already, and the optimizer is not.
    "restore": lambda call: _before(snapshot, "restore_state", call),
    "copy": lambda call: _before(snapshot, "copied_state", call),
    # Half-way through a file; and between a file and its name.
    "write": lambda call: _before(checkpoint_files._CheckedStream, "write", call),
    "sync": lambda call: _before(checkpoint_store, "_sync", call),
    "log": _in_log,
}
