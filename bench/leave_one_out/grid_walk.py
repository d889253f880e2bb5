"""A rival's grid of learning rates (LRs), walked from its middle: the best one is bracketed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from bench.leave_one_out.runs import Run
from bench.leave_one_out.store import Cache

FIRST_LRS = 3
"""With fewer than these no LR that was tried can have a worse one on each side."""


def next_runs(runs: Iterable[Run], cache: Cache) -> list[Run]:
    """Return the runs to make next, of whole grids; none where each best LR is bracketed.

    First the three LRs in the middle of a grid, then one beyond the best as long as that is the
    smallest or the largest that was tried and is not the grid's end.

    Args:
        runs: of the whole grids.
        cache: what has been run.
    """

    def grid_of(run: Run) -> tuple[str, str, int, int]:
        return run.task, run.method, run.seed, run.steps

    chosen: list[Run] = []
    for _, of_grid in itertools.groupby(sorted(runs, key=grid_of), grid_of):
        grid = sorted(of_grid, key=lambda run: run.lr or 0.0)
        first = max(0, (len(grid) - FIRST_LRS) // 2)
        middle = grid[first : first + FIRST_LRS]
        tried = [place for place, run in enumerate(grid) if run.key in cache]
        if any(run.key not in cache for run in middle):
            chosen += [run for run in middle if run.key not in cache]
            continue
        best = min(tried, key=lambda place: cache[grid[place].key].lowest)
        beside = (place for place in (best - 1, best + 1) if 0 <= place < len(grid))
        chosen += [grid[place] for place in beside if grid[place].key not in cache]
    return chosen
