"""From cached runs to differences between methods: with their noise, by group, over groups.

A difference is relative: (ours - rival's) / rival's lowest validation loss, paired over seeds.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from bench.leave_one_out.registry import METHODS
from bench.leave_one_out.store import Cache
from bench.tasks.suite import SUITE
from ray_autolrs.comparison.record import RunRecord
from ray_autolrs.comparison.table import TunedMethod, tuned_methods

Methods = Mapping[str, TunedMethod]
"""By name, each at the learning rate (LR) that was best for it; losses are each run's lowest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A relative difference of two methods on a task.

    Attributes:
        value: mean over seeds; below zero the first is better.
        error: its standard error over seeds; None for a single seed.
        seeds: number of pairs.
    """

    value: float
    error: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Difference:
        """Return the mean of the differences of seeds."""
        mean = statistics.fmean(values)
        error = None
        if len(values) > 1 and math.isfinite(mean):
            error = statistics.stdev(values) / math.sqrt(len(values))
        return cls(value=mean, error=error, seeds=len(values))

    @property
    def verdict(self) -> str:
        """``"tie"`` within twice the standard error, else ``"ahead"`` or ``"behind"``.

        Empty where one seed tells no noise.

        >>> Difference(value=-0.02, error=0.01, seeds=2).verdict
        'tie'
        """
        if self.error is None and math.isfinite(self.value):
            return ""
        if self.error is not None and abs(self.value) <= 2 * self.error:
            return "tie"
        return "ahead" if self.value < 0 else "behind"

    def __str__(self) -> str:
        if self.error is None:
            return percent(self.value)
        return f"{percent(self.value)} ± {100 * self.error:.1f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean over groups and half the width of its 95% interval, by Student's t."""

    mean: float
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Return the mean of the groups' values; no interval for fewer than two."""
        mean = statistics.fmean(values)
        if len(values) < 2 or not math.isfinite(mean):
            return cls(mean=mean, half_width=None)
        error = statistics.stdev(values) / math.sqrt(len(values))
        return cls(mean=mean, half_width=float(stats.t.ppf(0.975, len(values) - 1)) * error)

    def __str__(self) -> str:
        if self.half_width is None:
            return percent(self.mean)
        return f"{percent(self.mean)} ± {100 * self.half_width:.1f}"


def percent(value: float) -> str:
    """Return a relative difference as a table shows it.

    >>> percent(0.0123), percent(math.inf)
    ('+1.2%', 'diverged')
    """
    return f"{100 * value:+.1f}%" if math.isfinite(value) else "diverged"


def tuned_by_task(
    cache: Cache, steps: int, seeds: Iterable[int] | None = None
) -> dict[str, Methods]:
    """Return, by task, each method of the present version at its best LR.

    The LR is the best in the mean over those seeds that all of the method's LRs were run with.

    Args:
        cache: all runs.
        steps: of a run; others are left out.
        seeds: to look at; None for all.
    """
    chosen = None if seeds is None else set(seeds)
    versions = {name: method.version for name, method in METHODS.items()}
    records: defaultdict[str, list[RunRecord]] = defaultdict(list)
    for run in cache.values():
        record = run.record
        if run.task not in SUITE or run.task_version != SUITE[run.task].version:
            continue
        if versions.get(record.method) != run.version or record.steps != steps:
            continue
        if chosen is None or record.seed in chosen:
            records[run.task].append(dataclasses.replace(record, val_loss=run.lowest))
    return {task: tuned_methods(records[task]) for task in SUITE if task in records}


def difference(ours: TunedMethod, rival: TunedMethod) -> Difference | None:
    """Return the relative difference over the seeds that both have; None if there are none.

    A run of ours that diverged counts as infinite, a rival's as -100%.
    """
    shared = sorted(ours.runs.keys() & rival.runs.keys())
    values = [relative(ours.runs[seed].val_loss, rival.runs[seed].val_loss) for seed in shared]
    return Difference.of(values) if values else None


def relative(ours: float, rival: float) -> float:
    """Return (ours - rival) / rival; -1 where only the rival diverged, 0 where both did."""
    if math.isinf(rival):
        return 0.0 if math.isinf(ours) else -1.0
    return (ours - rival) / rival


def best_of(methods: Methods, names: Sequence[str], seeds: Iterable[int]) -> TunedMethod | None:
    """Return the method with the lowest mean loss over seeds, of those run on most of them.

    None if no method of those names was run on any of them.
    """
    wanted = set(seeds)
    found = [methods[name] for name in names if name in methods]
    most = max((len(wanted & method.runs.keys()) for method in found), default=0)
    if most == 0:
        return None

    def mean(method: TunedMethod) -> float:
        return statistics.fmean(method.runs[seed].val_loss for seed in wanted & method.runs.keys())

    return min((one for one in found if len(wanted & one.runs.keys()) == most), key=mean)


def by_group(values: Mapping[str, float], groups: Mapping[str, str]) -> dict[str, float]:
    """Return the mean of each group's tasks, groups in the order of the tasks.

    >>> by_group({"a": 1.0, "b": 3.0, "c": 0.0}, {"a": "x", "b": "x", "c": "y"})
    {'x': 2.0, 'y': 0.0}
    """
    found: defaultdict[str, list[float]] = defaultdict(list)
    for task, value in values.items():
        found[groups[task]].append(value)
    return {group: statistics.fmean(of_group) for group, of_group in found.items()}
