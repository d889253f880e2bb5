"""When a run's state is due to be stored: pure decisions, and the clock that they are made by."""

from __future__ import annotations

import logging
import math

from ray_autolrs.checkpoint_settings import Checkpoints

logger = logging.getLogger(__name__)

DAY_S = 86_400.0

TOLD_AGAIN = 2.0
"""An interval is logged again once it has changed by this factor."""


def young_interval_s(write_s: float, failures_per_day: float) -> float:
    """Return the interval that loses the least time to writing and to failures together.

    J. W. Young, "A first order approximation to the optimum checkpoint interval", Communications
    of the ACM 17(9), 1974: √(2 · time of a checkpoint · mean time between failures).

    >>> round(young_interval_s(write_s=3.0, failures_per_day=1.0))
    720
    """
    return math.sqrt(2 * write_s * DAY_S / failures_per_day)


class CheckpointTimes:
    """Says when the next checkpoint is due.

    Args:
        settings: as the user set them.
        now_s: a clock's time.

    Attributes:
        interval_s: seconds between two checkpoints; infinite while no time is known, and with
            ``every_steps`` alone.
    """

    def __init__(self, settings: Checkpoints, now_s: float) -> None:
        self.interval_s = settings.every_s or math.inf
        self._settings = settings
        self._is_chosen = settings.every_s is None and settings.every_steps is None
        self._told_s = math.nan
        self._last_s = now_s
        self._steps = 0

    def is_due(self, now_s: float, steps: int) -> bool:
        """Take note of steps that were taken, and return whether a checkpoint is due."""
        self._steps += steps
        every_steps = self._settings.every_steps
        if every_steps is not None and self._steps >= every_steps:
            return True
        return now_s - self._last_s >= self.interval_s

    def begun(self, now_s: float) -> None:
        """Take note that the state is being stored: the interval begins anew."""
        self._last_s, self._steps = now_s, 0

    def written(self, write_s: float) -> None:
        """Take note of how long a checkpoint took, from the copy's begin to the file's end."""
        if not self._is_chosen:
            return
        failures = self._settings.failures_per_day
        self.interval_s = young_interval_s(write_s, failures)
        change = self.interval_s / self._told_s
        if not 1 / TOLD_AGAIN < change < TOLD_AGAIN:
            self._told_s = self.interval_s
            logger.info(
                "within a stage the state is stored every %.3g s: writing it takes %.3g s, and "
                "%g failures a day are expected (Young's interval; see Checkpoints)",
                self.interval_s,
                write_s,
                failures,
            )
