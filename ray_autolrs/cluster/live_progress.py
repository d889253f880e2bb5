"""How a command goes, told to the search actor while it is carried out."""

from __future__ import annotations

import time

from ray_autolrs.algorithm.stages.messages import Apply, Command
from ray_autolrs.cluster.search_line import SearchLine
from ray_autolrs.sinks.sink import Measurement
from ray_autolrs.training.averaging.lr_factors import applied_lr
from ray_autolrs.training.worker import Worker

HEARTBEAT_INTERVAL_S = 0.2
"""Shortest time between two heartbeats, and two messages of what was measured."""


class LiveProgress:
    """A worker's :data:`~ray_autolrs.training.worker.Progress`; those beside rank 0 are silent.

    Called at each look at the losses, it tells the search actor how far the command is and, of a
    stage that is applied, what the look has found.

    Args:
        worker: whose optimizer and evaluation are read.
        search: the line to the search actor.

    Attributes:
        is_urgent: the search actor has asked for a checkpoint.
    """

    def __init__(self, worker: Worker, search: SearchLine) -> None:
        self._worker = worker
        self._search = search
        self._is_told = worker.group.rank == 0
        self._first_step: int | None = None
        self._waiting: list[Measurement] = []
        self._last_s = 0.0
        self.is_urgent = False

    def begin(self, command: Command) -> None:
        """Take note of the command that is carried out from here on."""
        self._first_step = command.segment.first_step if isinstance(command, Apply) else None
        self._worker.evaluation.take_latest()

    def __call__(self, steps_done: int, loss: float) -> None:
        if not self._is_told:
            return
        if self._first_step is not None:
            evaluation = self._worker.evaluation.take_latest()
            self._waiting.append(
                Measurement(
                    step=self._first_step + steps_done,
                    loss=loss if evaluation is None else None,
                    lr=applied_lr(self._worker.replica.optimizer),
                    evaluation=evaluation or {},
                )
            )
        now_s = time.monotonic()
        if now_s - self._last_s >= HEARTBEAT_INTERVAL_S:
            self._last_s = now_s
            self.is_urgent = self._search.heartbeat(steps_done, loss)
            self.flush()

    def flush(self) -> None:
        """Tell what was measured and waits."""
        if self._waiting:
            self._search.measured(tuple(self._waiting))
            self._waiting.clear()
