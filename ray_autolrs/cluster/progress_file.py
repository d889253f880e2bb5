"""How far a run's workers are, for the count of the steps that others take again if they are lost.

Nothing that is trained depends on it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

from ray_autolrs.algorithm.field_checks import is_integer
from ray_autolrs.algorithm.stages.machine import outstanding
from ray_autolrs.algorithm.stages.messages import Address, Apply, Probe, Ready, address_of
from ray_autolrs.algorithm.stages.phases import RunState
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.cluster.run_folder import PROGRESS_FILE, RunFolder

NOTE_INTERVAL_S = 1.0
"""Shortest time between two notes in the file."""


class ProgressFile:
    """The latest command that workers were heard of, and how many steps of it they had taken.

    Args:
        folder: the run's. What an earlier process has noted there counts until something newer
            is noted.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._latest: tuple[Address, int] | None = None
        self._noted_s = time.monotonic()

    def note(self, address: Address, steps: int) -> None:
        """Take note of progress; it is in the file a second later at most."""
        self._latest = (address, steps)
        now_s = time.monotonic()
        if now_s - self._noted_s >= NOTE_INTERVAL_S:
            self._noted_s = now_s
            content = json.dumps({"command": [*address], "steps": steps}) + "\n"
            self._folder.write(PROGRESS_FILE, content.encode(), is_synced=False)

    def latest(self) -> tuple[Address, int] | None:
        """Return a command's address and its steps; None if nothing is known."""
        if self._latest is not None:
            return self._latest
        try:
            found = json.loads(self._folder.read(PROGRESS_FILE) or b"null")
            (kind, stage, number), steps = found["command"], found["steps"]
        except (ValueError, TypeError, KeyError):
            return None
        known = isinstance(kind, str) and all(map(is_integer, (stage, number, steps)))
        return ((kind, stage, number), steps) if known else None

    def delete(self) -> None:
        """Delete the file: the run is over."""
        if self._folder.read(PROGRESS_FILE) is not None:
            self._folder.delete(PROGRESS_FILE)


def redone_steps(
    event: Ready, state: RunState, latest: tuple[Address, int] | None, records: Iterable[Record]
) -> int:
    """Return how many steps workers that were lost had taken, which are taken again.

    Steps of stages that the log holds twice are not among them.

    Args:
        event: what the new workers have told.
        state: of the machine, after it.
        latest: :meth:`ProgressFile.latest`.
        records: the run's log, before the event.
    """
    if latest is None:
        return 0
    address, steps = latest
    number_key = "index" if address[0] == "probe" else "attempt"
    told = ((r["kind"], r.get("stage"), r.get(number_key)) for r in records)
    if address in told:
        return 0
    commands = outstanding(state)
    next_one = commands[0] if commands else None
    is_next = isinstance(next_one, (Probe, Apply)) and address_of(next_one) == address
    held = event.done_steps if is_next and event.begun == address else 0
    return max(0, steps - held)
