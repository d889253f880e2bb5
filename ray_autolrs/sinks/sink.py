"""What a sink is: it is told of a run's records and its progress, while the run goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ray_autolrs.algorithm.stages.messages import Apply, Command, Finish, Probe
from ray_autolrs.algorithm.stages.records import Record


@dataclass(frozen=True, slots=True)
class Status:
    """What is going on now.

    Attributes:
        command: what the workers are doing; None before they are ready.
        steps_done: steps of it that are done.
        loss: the latest loss; NaN before the first.
        lanes_busy: lanes that run a probe by themselves.
    """

    command: Command | None = None
    steps_done: int = 0
    loss: float = math.nan
    lanes_busy: int = 0


class Sink:
    """A place that a run's records and its progress go to; each method may be left out.

    All are called from one thread of the driver. What one raises is logged once, and the sink is
    told nothing more: it cannot end a run.
    """

    def start(self, past: list[Record], total_steps: int | None) -> None:
        """Begin.

        Args:
            past: the run's records so far, if it is continued.
            total_steps: applied steps of the whole run; None while its end is not known.
        """

    def record(self, record: Record) -> None:
        """Take in a record of the run's log (:mod:`ray_autolrs.algorithm.stages.records`)."""

    def progress(self, status: Status) -> None:
        """Take in what is going on; called about twice a second."""

    def close(self) -> None:
        """End."""


def describe_command(command: Command) -> str:
    """Return a command as a short text.

    >>> describe_command(Finish())
    'finishing'
    """
    match command:
        case Probe():
            lr = command.segment.peak_lr
            return f"stage {command.stage} probe {command.index + 1} lr {lr:.3g}"
        case Apply(stage=0):
            return f"warm-up to lr {command.segment.peak_lr:.3g}"
        case Apply():
            return f"stage {command.stage} apply lr {command.segment.peak_lr:.3g}"
        case Finish():
            return "finishing"
