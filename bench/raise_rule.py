"""When a run's LR should be raised at the end of its warm-up: rules, tried on the forks.

    python -m bench.raise_rule

Reads what ``python -m bench.lr_forks`` has measured. A rule raises the learning rate (LR) where
the way of the weights was straighter than a threshold, by octaves, as long as the higher LR's
branch is not higher by more than a tolerance after so many steps. Printed are the regrets: how far
the end of the branch that is gone on with lies above the best branch's, at most 30%, and what the
probes cost; then those of rules that were chosen without the group that they are judged on.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.leave_one_out.choice import leave_one_group_out
from bench.lr_forks import RUNS, lowest_loss, read
from bench.measurement import options
from bench.tasks.suite import SUITE
from ray_autolrs.algorithm.search.research import (
    MOST_RAISES,
    Research,
    is_lower,
)

NEVER = math.inf
LEAST_DIRECTNESS, TOLERANCE = Research().least_directness, Research().tolerance
THRESHOLDS = (2.0, 1.5, 1.2, 1.0, 0.9, 0.0)
TOLERANCES = (-0.01, 0.0, 0.01, 0.02, 0.03, 0.05)
PROBE_STEPS = (50, 100, 150, 200)
JUDGED_STEPS = 100
"""Of a probe: the default's are 115 at this length of run."""

MOST_REGRET = 0.3
"""A task that an LR too low by 16 hardly learns would own every mean."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule leads to.

    Attributes:
        regret: relative to the best branch.
        cost: probes' steps, as a part of the run.
        raises: octaves that it went up.
    """

    regret: float
    cost: float
    raises: int


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--start", type=float, default=1.0, help="of the LR that was found")
    parser.add_argument("--runs", type=Path, default=RUNS)
    arguments = parser.parse_args(argv)
    print(page(arguments))


def page(arguments: argparse.Namespace) -> str:
    """Return the tables."""
    found = [run for run in read(arguments.runs) if run["start"] == arguments.start]
    runs = [run for run in found if run["branches"]]
    lines = [
        f"{len(runs)} tasks",
        "",
        "| raised above | unless higher by | steps | mean regret | worst | cost |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rules = [(NEVER, 0.0)]
    rules += [(threshold, TOLERANCE) for threshold in THRESHOLDS]
    rules += [(LEAST_DIRECTNESS, tolerance) for tolerance in TOLERANCES]
    for threshold, tolerance in rules:
        for steps in PROBE_STEPS if threshold < NEVER else PROBE_STEPS[:1]:
            outcomes = [outcome(run, threshold, steps, tolerance) for run in runs]
            lines.append(
                f"| {threshold:g} | {tolerance:g} | {steps} | {_mean(outcomes):.2%} | "
                f"{max(one.regret for one in outcomes):.1%} | "
                f"{statistics.fmean(one.cost for one in outcomes):.1%} |"
            )
    rules = [(NEVER, 0.0), *itertools.product(THRESHOLDS, TOLERANCES)]
    scores = {
        f"{threshold:g}, {tolerance:g}": {
            run["task"]: min(MOST_REGRET, outcome(run, threshold, JUDGED_STEPS, tolerance).regret)
            for run in runs
        }
        for threshold, tolerance in rules
    }
    judged = leave_one_group_out(scores, {run["task"]: SUITE[run["task"]].group for run in runs})
    lines += [
        "",
        "| group left out | chosen | regret | never raised |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {one.group} | {one.chosen} | {one.value:.2%} | {one.default:.2%} |" for one in judged
    ]
    chosen = statistics.fmean(one.value for one in judged)
    never = statistics.fmean(one.default for one in judged)
    lines += [f"| mean | | {chosen:.2%} | {never:.2%} |"]
    return "\n".join(lines)


def outcome(run: dict[str, Any], threshold: float, steps: int, tolerance: float) -> Outcome:
    """Return what a rule does to a run.

    Args:
        run: a line of the forks.
        threshold: of the directness at the fork, above which higher LRs are tried.
        steps: of a probe, at whose end two branches are compared.
        tolerance: see :class:`Research`; below zero, by how much the higher LR must win.
    """
    branches = {int(octaves): branch for octaves, branch in run["branches"].items()}
    ends = {octaves: lowest_loss(branch) for octaves, branch in branches.items()}
    directness = run["trunk"]["directness"][-1][1] or 0.0
    raises, cost = 0, 0.0
    while directness > threshold and raises < MOST_RAISES and raises + 1 in branches:
        cost += steps / run["steps"]
        now, higher = (dict(branches[raises + up]["losses"]).get(steps) for up in (0, 1))
        if now is None or higher is None:
            break
        if not is_lower(higher, now, run["initial"], -tolerance):
            break
        raises += 1
    return Outcome(ends[raises] / min(ends.values()) - 1, cost, raises)


def _mean(found: Sequence[Outcome]) -> float:
    return statistics.fmean(min(MOST_REGRET, one.regret) for one in found)


if __name__ == "__main__":
    main()
