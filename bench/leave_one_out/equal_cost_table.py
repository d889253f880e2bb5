"""The table of rivals at equal cost, over all tasks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from bench.leave_one_out.comparison import Methods, percent, relative
from bench.leave_one_out.equal_cost import (
    BUDGETS,
    affordable_plans,
    halving_loss,
    random_loss,
    runs_to_draw_level,
)
from bench.leave_one_out.registry import DEFAULT, METHODS
from bench.tasks.suite import SUITE
from ray_autolrs.comparison.record import RunRecord

REPLAYED = ("wsd", "cosine", "schedule_free")
"""Schedules whose LR a user would tune."""


def equal_cost_rows(tasks: Mapping[str, Methods]) -> list[dict[str, Any]]:
    """Return a row for each schedule and budget, over the tasks and seeds with a whole grid.

    Medians and shares are over tasks, each of which counts with the mean of its seeds.
    """
    rows: list[dict[str, Any]] = []
    for name in REPLAYED:
        grids = _grids(tasks, name)
        for budget in BUDGETS:
            row: dict[str, Any] = {"schedule": name, "runs in all": budget, "tasks": len(grids)}
            whole = math.floor(budget)
            row |= _against(grids, [partial(random_loss, count=whole)], "random")
            plans = affordable_plans(len(SUITE[next(iter(grids))].lrs), budget) if grids else []
            row |= _against(grids, [partial(halving_loss, plan=plan) for plan in plans], "halving")
            row["runs to draw level"] = _level(grids) if budget == BUDGETS[0] else ""
            rows.append(row)
    return rows


_Grids = dict[str, list[tuple[float, list[RunRecord]]]]
"""By task, for each seed: our loss, and the runs of the schedule's whole grid."""


def _grids(tasks: Mapping[str, Methods], name: str) -> _Grids:
    found: _Grids = {}
    for task, methods in tasks.items():
        if name not in methods:
            continue
        size = len(METHODS[name].lrs(SUITE[task]))
        for seed, ours in methods[DEFAULT].runs.items():
            runs = [run for run in methods[name].records if run.seed == seed]
            if len(runs) == size:
                found.setdefault(task, []).append((ours.val_loss, runs))
    return found


Search = Callable[[list[RunRecord]], float]
"""Returns the loss that a search over a grid's runs ends at."""


def _against(grids: _Grids, searches: Sequence[Search], name: str) -> dict[str, Any]:
    """Return the cells that compare us with the search that is hardest in the median."""
    median, ahead = f"to {name}, median", f"ahead of {name}"
    if not grids:
        return {median: "", ahead: ""}
    found = [_differences(grids, search) for search in searches]
    hardest = max(found, key=statistics.median)
    count = sum(value < 0 for value in hardest)
    return {median: percent(statistics.median(hardest)), ahead: f"{count}/{len(grids)}"}


def _differences(grids: _Grids, search: Search) -> list[float]:
    """Return, for each task, our relative difference in the mean over seeds."""
    return [
        statistics.fmean(relative(ours, search(runs)) for ours, runs in seeds)
        for seeds in grids.values()
    ]


def _level(grids: _Grids) -> str:
    """Return the median runs to draw level; the grid's size and one more where all do not."""
    counts = [
        len(runs) + 1 if (found := runs_to_draw_level(runs, ours)) is None else found
        for seeds in grids.values()
        for ours, runs in seeds
    ]
    if not counts:
        return ""
    most = max(len(runs) for seeds in grids.values() for _, runs in seeds)
    median = statistics.median(counts)
    return f"{median:.1f}" if median <= most else f"more than {most}"
