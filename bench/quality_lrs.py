"""The learning rates (LRs) of the quality benchmark: what is searched, and the rivals' grids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True, slots=True)
class LRs:
    """Learning rates of a task, all of the optimizer's first parameter group.

    Attributes:
        search: interval of our search, for the optimizer as it is. Three decades: nobody knows
            better before the first run.
        paper: the paper's interval, which lacks averaging, and whose forecast needs care at
            LRs that make the loss jump.
        rivals: grid of the schedules, for the optimizer as it is.
        schedule_free: grid of hand-tuned Schedule-Free, likewise for the optimizer as it is: where
            averaging replaces a momentum of 0.9, steps are ten times as long as the LR says.
    """

    search: tuple[float, float]
    paper: tuple[float, float]
    rivals: tuple[float, ...]
    schedule_free: tuple[float, ...]


LEARNING_RATES: Mapping[str, LRs] = MappingProxyType(
    {
        "cnn": LRs(
            search=(0.003, 3.0),
            paper=(0.003, 3.0),
            rivals=(0.01, 0.03, 0.1, 0.3, 1.0),
            schedule_free=(0.03, 0.1, 0.3, 1.0, 3.0),
        ),
        "cnn256": LRs(
            search=(0.003, 3.0),
            paper=(0.003, 3.0),
            rivals=(0.03, 0.1, 0.3, 1.0, 3.0),
            schedule_free=(0.03, 0.1, 0.3, 1.0, 3.0),
        ),
        "mlp": LRs(
            search=(3e-5, 0.03),
            paper=(3e-5, 0.03),
            rivals=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
            schedule_free=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        ),
        "lm": LRs(
            search=(3e-4, 0.3),
            paper=(1e-4, 0.1),
            rivals=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
            schedule_free=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        ),
        "translation": LRs(
            search=(1e-4, 0.1),
            paper=(1e-4, 0.1),
            rivals=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
            schedule_free=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        ),
        "vit": LRs(
            search=(1e-4, 0.1),
            paper=(1e-4, 0.1),
            rivals=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
            schedule_free=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        ),
        "rnn": LRs(
            search=(0.003, 3.0),
            paper=(0.01, 10.0),
            rivals=(0.1, 0.3, 1.0, 3.0, 10.0),
            schedule_free=(0.3, 1.0, 3.0, 10.0, 30.0),
        ),
        "mlm": LRs(
            search=(1e-4, 0.1),
            paper=(1e-4, 0.1),
            rivals=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
            schedule_free=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        ),
    }
)
"""Of each task. A grid whose best LR lies at its end does not bracket the optimum; the table
says so where it happens."""
