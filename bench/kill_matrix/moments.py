"""The places in a run where its process is killed, or its storage fails.

A moment is a name and a count: at that call of what the name stands for, once for each marker file,
the process gets a signal. It is installed where the task is built, so in every worker of a run.
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

from ray_autolrs.algorithm.stages.messages import Probe
from ray_autolrs.cluster import checkpoint_files, checkpoint_store
from ray_autolrs.cluster.event_log import EventLog
from ray_autolrs.cluster.run_folder import EVENTS_FILE
from ray_autolrs.training import snapshot
from ray_autolrs.training.segment_run import SegmentRun

FAR = 10**9

FULL = "full"
"""In place of a signal: the storage is full from then on, until the process ends."""

IN_WORKER = ("probe", "apply", "restore", "copy", "write", "sync")
IN_PROCESS = (*IN_WORKER, "log")


@dataclass(frozen=True, slots=True)
class Moment:
    """When a process is killed.

    Attributes:
        place: one of ``IN_PROCESS``.
        count: at which call there.
        what: a signal's name, or ``FULL``.
        marker: made when it happens; nothing happens where it is.
    """

    place: str
    count: int
    what: str
    marker: Path

    def install(self) -> None:
        """Have it happen in this process."""
        if not self.marker.exists():
            INSTALL[self.place](_Countdown(self))


class _Countdown:
    """Lets a moment happen at its call."""

    def __init__(self, moment: Moment) -> None:
        self.moment = moment
        self.left = moment.count

    def __call__(self) -> None:
        self.left -= 1
        full = self.moment.what == FULL
        if self.left == 0 or (full and self.left < 0):
            try:
                self.moment.marker.touch(exist_ok=full)
            except FileExistsError:
                return  # Another worker was faster.
            if full:
                raise OSError(errno.ENOSPC, "No space left on device")
            os.kill(os.getpid(), signal.Signals[self.moment.what])

    @property
    def calls(self) -> int:
        """Calls so far."""
        return self.moment.count - self.left


def _before(owner: Any, name: str, countdown: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        countdown()
        return original(*arguments, **named)

    setattr(owner, name, counted)


def _in_steps(*, of_probes: bool) -> Callable[[_Countdown], None]:
    def install(countdown: _Countdown) -> None:
        run, is_there = SegmentRun.to_its_end, [False]

        def noting(self: SegmentRun, progress: Any) -> bool:
            is_there[0] = isinstance(self.command, Probe) == of_probes
            try:
                return run(self, progress)
            finally:
                is_there[0] = False

        def step() -> None:
            if is_there[0] and torch.is_grad_enabled():
                countdown()

        SegmentRun.to_its_end = noting  # type: ignore[method-assign]
        STEP_HOOKS.append(step)

    return install


def _in_log(countdown: _Countdown) -> None:
    append = EventLog.append

    def half(self: EventLog, records: Any) -> None:
        records = list(records)
        if countdown.left == 1:
            with Path(f"{self._folder.path}/{EVENTS_FILE}").open("a") as file:
                file.write('{"kind": "probe", "sta')
        countdown()
        append(self, records)

    EventLog.append = half  # type: ignore[method-assign]


def count_calls() -> dict[str, _Countdown]:
    """Count the calls at every place of this process; nothing happens."""
    never = Path("/nonexistent/happened")
    counts = {place: _Countdown(Moment(place, FAR, "SIGKILL", never)) for place in INSTALL}
    for place, countdown in counts.items():
        INSTALL[place](countdown)
    return counts


STEP_HOOKS: list[Callable[[], None]] = []
"""Called in each forward pass of the task."""

INSTALL: dict[str, Callable[[_Countdown], None]] = {
    "probe": _in_steps(of_probes=True),
    "apply": _in_steps(of_probes=False),
    # The model is restored or copied already, and the optimizer is not.
    "restore": lambda countdown: _before(snapshot, "restore_state", countdown),
    "copy": lambda countdown: _before(snapshot, "copied_state", countdown),
    # Half-way through a file; and between a file and its name.
    "write": lambda countdown: _before(checkpoint_files._CheckedStream, "write", countdown),
    "sync": lambda countdown: _before(checkpoint_store, "_sync", countdown),
    "log": _in_log,
}
