"""Rivals at equal cost: random search and successive halving, replayed from cached runs.

A user who tunes a schedule's learning rate (LR) draws LRs and pays for their steps. The runs of
the grid are what such a search would have made: each subset of the grid is one draw, and every
subset is looked at. What is told is the median over subsets (the lower of two in the middle, in
the rivals' favour).

Of all plans of halving that a budget pays for, the table takes the one that is best in the median
over tasks: more than a user can know. What this leaves out, all of it but the last in the rivals'
favour: LRs come from the rivals' grid of two decades, not from the interval of three that our
method searches; no LR is drawn twice; halving is synchronous, where ASHA promotes LRs for want of
others to compare them with; a part of a run that is left in the budget buys no shorter run, whose
schedule no cached run has.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ray_autolrs.comparison.record import RunRecord

BUDGETS = (1.15, 1.5, 2.0, 3.0)
"""Runs' steps in all."""

SHORTEST_RUNG = 1 / 20
"""Of a run: the first evaluation."""


@dataclass(frozen=True, slots=True)
class Halving:
    """A plan of successive halving.

    Attributes:
        configurations: LRs that begin.
        survivors: how many train on to each rung.
        rungs: parts of a run, the last of them 1.
    """

    configurations: int
    survivors: tuple[int, ...]
    rungs: tuple[float, ...]

    @property
    def cost(self) -> float:
        """Runs' steps in all."""
        lengths = [end - start for start, end in itertools.pairwise((0.0, *self.rungs))]
        return sum(map(math.prod, zip(self.survivors, lengths, strict=True)))


def affordable_plans(most: int, budget: float) -> list[Halving]:
    """Return the plans of successive halving that a budget pays for.

    At each rung one in η goes on, at least one, with η of 2, 3 or 4; rungs are η times as long
    as the one before.

    Args:
        most: LRs there are.
        budget: runs' steps in all, at least 1.

    >>> max(plan.configurations for plan in affordable_plans(5, 1.15))
    3
    """
    plans = [
        _plan(configurations, keep, depth)
        for configurations in range(1, most + 1)
        for keep in (2, 3, 4)
        for depth in range(1, 5)
        if keep**-depth >= SHORTEST_RUNG
    ]
    return [plan for plan in plans if plan.cost <= budget + 1e-9]


def _plan(configurations: int, keep: int, depth: int) -> Halving:
    survivors = tuple(max(1, configurations // keep**rung) for rung in range(depth + 1))
    rungs = tuple(float(keep) ** (rung - depth) for rung in range(depth + 1))
    return Halving(configurations, survivors, rungs)


def halving_loss(runs: Sequence[RunRecord], plan: Halving) -> float:
    """Return the loss that successive halving ends at, of all subsets the lower median.

    Args:
        runs: of one method, task and seed, one for each LR; ``val_loss`` is each run's lowest.
        plan: its number of LRs is at most that of the runs.
    """
    losses = [_halved(subset, plan) for subset in itertools.combinations(runs, plan.configurations)]
    return statistics.median_low(losses)


def _halved(runs: Sequence[RunRecord], plan: Halving) -> float:
    alive = list(runs)
    for count, rung in zip(plan.survivors[1:], plan.rungs, strict=False):
        alive.sort(key=lambda run: loss_at(run, rung * run.steps))
        alive = alive[:count]
    return min(run.val_loss for run in alive)


def loss_at(run: RunRecord, step: float) -> float:
    """Return the validation loss of the last evaluation by a step; infinite if diverged by then.

    A run that diverged counts as diverged from the first evaluation that it lacks.
    """
    if run.diverged and (not run.curve or step > run.curve[-1][0]):
        return math.inf
    seen = [loss for at, loss in run.curve if at <= step + 1e-9]
    return seen[-1] if seen else math.inf


def random_loss(runs: Sequence[RunRecord], count: int) -> float:
    """Return the lowest loss of ``count`` whole runs, of all subsets the lower median."""
    subsets = itertools.combinations([run.val_loss for run in runs], min(count, len(runs)))
    return statistics.median_low(map(min, subsets))


def runs_to_draw_level(runs: Sequence[RunRecord], loss: float) -> float | None:
    """Return how many runs at random LRs end as low as ``loss``, interpolated; None if all do not.

    >>> made = [RunRecord(method="m", lr=lr, seed=0, steps=1, val_loss=loss)
    ...         for lr, loss in ((1.0, 4.0), (2.0, 2.0), (3.0, 3.0))]
    >>> runs_to_draw_level(made, 2.5), runs_to_draw_level(made, 1.0)
    (1.5, None)
    """
    before = math.inf
    for count in range(1, len(runs) + 1):
        found = random_loss(runs, count)
        if found <= loss:
            if math.isinf(before) or count == 1:
                return float(count)
            return count - 1 + (before - loss) / (before - found)
        before = found
    return None
