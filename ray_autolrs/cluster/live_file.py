"""What a run is doing now, in a file of its folder: a report of a run that goes on shows it.

The log grows when a probe or a stage has ended; a stage may take hours. The file is bounded, is
written whole every few seconds, and goes when the run ends.
"""

from __future__ import annotations

import math
import time
from typing import Any

from ray_autolrs.algorithm.stages.messages import Apply, Command
from ray_autolrs.cluster.run_folder import LIVE_FILE, RunFolder
from ray_autolrs.sinks.sink import Sink, Status, describe_command

MOST_LOSSES = 300
"""Losses kept of the command that is carried out; of more, every second one is dropped."""

INTERVAL_S = 5.0


class LiveFile(Sink):
    """Keeps ``live.json``.

    Args:
        folder: the run's.
        interval_s: least seconds between two writings.
    """

    def __init__(self, folder: RunFolder, interval_s: float = INTERVAL_S) -> None:
        self._folder = folder
        self._interval_s = interval_s
        self._command: Command | None = None
        self._losses: list[tuple[int, float]] = []
        self._written_s = -math.inf

    def progress(self, status: Status) -> None:
        if status.command is None:
            return
        if status.command != self._command:
            self._command, self._losses = status.command, []
        done = self._losses[-1][0] if self._losses else 0
        if math.isfinite(status.loss) and status.steps_done > done:
            self._losses.append((status.steps_done, status.loss))
        if len(self._losses) > MOST_LOSSES:
            self._losses = self._losses[1::2]
        if time.monotonic() - self._written_s >= self._interval_s:
            self._folder.write_json(LIVE_FILE, self._content(status))
            self._written_s = time.monotonic()

    def close(self) -> None:
        if self._folder.read(LIVE_FILE) is not None:
            self._folder.delete(LIVE_FILE)

    def _content(self, status: Status) -> dict[str, Any]:
        command = self._command
        assert command is not None
        content: dict[str, Any] = {
            "text": describe_command(command),
            "steps_done": status.steps_done,
            "steps": getattr(command, "steps", 0),
        }
        if isinstance(command, Apply):
            first = command.segment.first_step
            content["stage"] = command.stage
            content["losses"] = [[first + done, loss] for done, loss in self._losses]
        return content
