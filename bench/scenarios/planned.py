"""The scenarios, and the rivals: schedules that are planned before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bench.scenarios.changing_tasks import CHANGING_TASKS, Change, ChangingTask
from ray_autolrs.comparison.baselines import BASELINES
from ray_autolrs.comparison.plain_training import LRSource, train_plain
from ray_autolrs.comparison.record import RunRecord

CHANGED_AFTER = 0.46
"""Part of a run after which the conditions change: no stage of ours begins there."""

EVALUATED = 20
"""Evaluations of a run."""

RIVALS = ("cosine", "wsd", "schedule_free")

RIVALS_VERSION = 1
"""To be raised when the rivals, or the tasks and scenarios, do otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """What a run is beset with.

    Attributes:
        change: of the conditions.
        planned: part of the run that the schedules are planned for; it goes on after that.
        lr_factor: what the first learning rate (LR) is multiplied with; None where it is not
            meddled with, and the rivals have all of their LRs.
    """

    change: Change = "none"
    planned: float = 1.0
    lr_factor: float | None = None

    def scored_after(self, steps: int) -> int:
        """Return the steps after which evaluations count: those of the second part."""
        if self.planned < 1:
            return round(self.planned * steps)
        return 0 if self.change == "none" else changed_after(steps)

    def task(self, name: str, steps: int) -> ChangingTask:
        """Return the task with its change."""
        return CHANGING_TASKS[name](self.change, changed_after(steps))


SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "no change": Scenario(),
        "data shift": Scenario(change="shift"),
        "growing batch": Scenario(change="growth"),
        "first LR too low by 8": Scenario(lr_factor=1 / 8),
        "first LR too high by 4": Scenario(lr_factor=4.0),
        "twice as long": Scenario(planned=0.5),
        "unfreezing": Scenario(change="unfreezing"),
    }
)
"""By name."""


def changed_after(steps: int) -> int:
    """Return the steps after which a run's conditions change.

    >>> changed_after(1000)
    460
    """
    return round(CHANGED_AFTER * steps)


@dataclass(frozen=True, slots=True)
class Continued:
    """A schedule that was planned for a shorter run.

    A falling one begins anew where it ends, as a second cycle over what is left; one that does not
    fall stays as it is.

    Attributes:
        first: over the planned steps.
        second: over those after them; None stays at the last LR of the first.
        planned: the steps that ``first`` is for.
    """

    first: LRSource
    second: LRSource | None
    planned: int

    def lr_at(self, step: int) -> float:
        """Return the LR of a step."""
        if step < self.planned:
            return self.first.lr_at(step)
        if self.second is None:
            return self.first.lr_at(self.planned - 1)
        return self.second.lr_at(step - self.planned)


def train_rival(
    name: str, scenario: Scenario, task: str, *, lr: float, steps: int, seed: int
) -> RunRecord:
    """Make a run of a schedule that was planned beforehand."""
    baseline = BASELINES[name]
    planned = round(scenario.planned * steps)
    lrs = baseline.lrs(planned, lr)
    if planned < steps:
        falls = baseline.averaging is None
        lrs = Continued(lrs, baseline.lrs(steps - planned, lr) if falls else None, planned)
    return train_plain(
        scenario.task(task, steps),
        lrs,
        method=name,
        lr=lr,
        steps=steps,
        seed=seed,
        averaging=baseline.averaging,
        eval_every=steps // EVALUATED,
    )
