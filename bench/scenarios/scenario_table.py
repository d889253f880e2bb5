"""From the scenarios' runs to tables. Every figure is computed here from the runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.measurement import Row
from bench.scenarios.made import Key, Runs, ScenarioRun, key_of
from bench.scenarios.planned import RIVALS, SCENARIOS
from ray_autolrs.comparison.table import markdown

DEFAULT, STAGED = "default", "staged"

NO_RUNS = "No runs of the present version: make them with --run."


@dataclass(frozen=True, slots=True)
class RivalScore:
    """What a schedule that was planned beforehand ends at, in the mean of the seeds.

    Attributes:
        best: at the learning rate (LR) that is best in the scenario, which only hindsight knows.
        first: at the one that is best in the first part of the run.
    """

    best: float
    first: float


def rival_score(runs: Iterable[ScenarioRun]) -> RivalScore:
    """Return a rival's scores from its runs at all LRs and seeds."""
    by_lr: dict[float | None, list[ScenarioRun]] = {}
    for run in runs:
        by_lr.setdefault(run.key.lr, []).append(run)
    means = {lr: statistics.fmean(run.score for run in found) for lr, found in by_lr.items()}
    early = {lr: statistics.fmean(run.before for run in found) for lr, found in by_lr.items()}
    return RivalScore(min(means.values()), means[min(early, key=early.__getitem__)])


def tables(runs: Runs, tasks: Iterable[str], seeds: Iterable[int], steps: int) -> str:
    """Return a table for each task."""
    seeds, parts = list(seeds), []
    for task in tasks:
        rows = [
            row
            for scenario in SCENARIOS
            if (row := _row(of_scenario(runs, scenario, task, seeds, steps), scenario))
        ]
        parts.append(f"{task}\n\n{markdown(rows) if rows else NO_RUNS}")
    return "\n\n".join(parts)


def of_scenario(
    runs: Runs, scenario: str, task: str, seeds: Iterable[int], steps: int
) -> Mapping[str, list[ScenarioRun]]:
    """Return the runs of each method, those of the present version."""
    wanted = {
        (method, seed): key_of(scenario, task, method, None, seed, steps)
        for method in (*RIVALS, DEFAULT, STAGED)
        for seed in seeds
    }
    found: dict[str, list[ScenarioRun]] = {}
    for key, run in runs.items():
        if wanted.get((key.method, key.seed)) == _without_lr(key):
            found.setdefault(key.method, []).append(run)
    return found


def _without_lr(key: Key) -> Key:
    return key._replace(lr=None)


def _row(found: Mapping[str, list[ScenarioRun]], scenario: str) -> Row | None:
    if STAGED not in found or not any(rival in found for rival in RIVALS):
        return None
    row: Row = {"scenario": scenario, **dict.fromkeys(RIVALS)}  # what was not run stays empty
    rivals = {rival: rival_score(found[rival]) for rival in RIVALS if rival in found}
    for rival, score in rivals.items():
        row[rival] = f"{score.best:.4g}"
        if math.isfinite(score.first) and score.first != score.best:
            row[rival] += f" ({score.first:.4g})"
        elif not math.isfinite(score.first):
            row[rival] += " (diverged)"
    for name in (DEFAULT, STAGED):
        row[name] = statistics.fmean(run.score for run in found[name]) if name in found else None
    staged = row[STAGED]
    best = min(score.best for score in rivals.values())
    first = min(score.first for score in rivals.values())
    row["to the best rival"] = f"{staged / best - 1:+.1%}"
    row["to the best at its first LR"] = f"{staged / first - 1:+.1%}"
    row["to the default"] = f"{staged / row[DEFAULT] - 1:+.1%}" if row[DEFAULT] else None
    for name in (DEFAULT, STAGED):
        extra = [run.record.search_steps / run.record.steps for run in found.get(name, ())]
        row[f"{name}'s extra steps"] = f"{statistics.fmean(extra):.0%}" if extra else None
    return row
