"""The learning rates (LRs) of the quality benchmark: what is searched, and the rivals' grids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True, slots=True)
class LRs:
    """Learning rates of a task, all of the optimizer's first parameter group.

    Attributes:
        paper: the paper's interval, which lacks averaging, and whose forecast needs care at
            LRs that make the loss jump.
        rivals: grid of the schedules, for the optimizer as it is.
        schedule_free: grid of hand-tuned Schedule-Free, likewise for the optimizer as it is: where
            averaging replaces a momentum of 0.9, steps are ten times as long as the LR says.
    """

    paper: tuple[float, float]
    rivals: tuple[float, ...]
    schedule_free: tuple[float, ...]

    @property
    def search(self) -> tuple[float, float]:
        """Interval of our search: the schedules' grid, and half a decade more on each side."""
        return self.rivals[0] / math.sqrt(10), self.rivals[-1] * math.sqrt(10)


LEARNING_RATES: Mapping[str, LRs] = MappingProxyType(
    {
        "cnn": LRs(
            paper=(0.003, 3.0),
            rivals=(0.01, 0.03, 0.1, 0.3, 1.0),
            schedule_free=(0.03, 0.1, 0.3, 1.0, 3.0),
        ),
        "cnn256": LRs(
            paper=(0.003, 3.0),
            rivals=(0.03, 0.1, 0.3, 1.0, 3.0),
            schedule_free=(0.03, 0.1, 0.3, 1.0, 3.0),
        ),
        "mlp": LRs(
            paper=(3e-5, 0.03),
            rivals=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
            schedule_free=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        ),
        "lm": LRs(
            paper=(1e-4, 0.1),
            rivals=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
            schedule_free=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        ),
        "translation": LRs(
            paper=(1e-4, 0.1),
            rivals=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
            schedule_free=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        ),
        "vit": LRs(
            paper=(1e-4, 0.1),
            rivals=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
            schedule_free=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        ),
        "rnn": LRs(
            paper=(0.01, 10.0),
            rivals=(0.1, 0.3, 1.0, 3.0, 10.0),
            schedule_free=(0.3, 1.0, 3.0, 10.0, 30.0),
        ),
        "mlm": LRs(
            paper=(1e-4, 0.1),
            rivals=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
            schedule_free=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        ),
    }
)
"""Of each task. A grid whose best LR lies at its end does not bracket the optimum; the table
says so where it happens."""
