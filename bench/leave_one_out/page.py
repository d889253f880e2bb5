"""The tables, from the cache alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.leave_one_out.choice import Judged, leave_one_group_out, shared_tasks
from bench.leave_one_out.comparison import (
    Difference,
    Interval,
    Methods,
    best_of,
    by_group,
    difference,
    percent,
    tuned_by_task,
)
from bench.leave_one_out.equal_cost_table import equal_cost_rows
from bench.leave_one_out.registry import (
    DEFAULT,
    FAMILIES,
    LR_ORACLE,
    METHODS,
    OTHER_RIVALS,
    TUNED,
)
from bench.leave_one_out.regret import gap, octaves_off
from bench.leave_one_out.store import Cache, CachedRun
from bench.tasks.suite import SUITE
from ray_autolrs.comparison.table import cell, markdown

Row = dict[str, Any]
Tasks = Mapping[str, Methods]

GROUP_OF = {task: entry.group for task, entry in SUITE.items()}


def page(cache: Cache, steps: int, seeds: Iterable[int] | None = None) -> str:
    """Return the page in Markdown.

    Args:
        cache: all runs.
        steps: of a run; others are left out.
        seeds: to look at; None for all.

    Raises:
        ValueError: no task has runs of our default.
    """
    chosen = None if seeds is None else set(seeds)
    tasks = tuned_by_task(cache, steps, chosen)
    ours = {task: methods for task, methods in tasks.items() if DEFAULT in methods}
    if not ours:
        raise ValueError(f"no task has runs of {DEFAULT} of {steps} steps: make them with --run")
    default_runs = [
        run
        for run in cache.values()
        if run.record.method == DEFAULT
        and run.version == METHODS[DEFAULT].version
        and run.record.steps == steps
        and (chosen is None or run.record.seed in chosen)
    ]
    compared = differences_to_best(ours, DEFAULT)
    parts = [
        "# Leave one group out",
        f"Runs of {steps} steps; {len(ours)} of {len(SUITE)} tasks have the default, "
        f"{len(compared)} of them a tuned rival. {_HOW}",
        "## The gap taken apart",
        markdown(_gap_rows(ours, default_runs)),
        "## Against the best tuned rival",
        *_against_best(ours, compared),
        "## Against each rival",
        markdown(_rival_rows(ours)),
        "## Variants, chosen on the other groups",
        *_families(ours),
        "## Rivals at equal cost",
        markdown(equal_cost_rows(ours)),
    ]
    return "\n\n".join(parts) + "\n"


_HOW = (
    "Differences are relative, of the lowest validation loss of a run's evaluations, paired over "
    "seeds, with the standard error over seeds; below zero the default is better, and within twice "
    "the error it is a tie. A rival's learning rate (LR) is the best in the mean over seeds of a "
    "grid of five, or of the three or four of it that bracket the best (`--walk`), and the best "
    "rival that of the lowest mean: both are chosen after the fact, in the "
    "rivals' favour. Means over groups have 95% intervals by Student's t, groups counted alike."
)


def differences_to_best(tasks: Tasks, name: str) -> dict[str, Difference]:
    """Return, by task, the difference of a method to the best tuned rival, where both were run."""
    found: dict[str, Difference] = {}
    for task, methods in tasks.items():
        if name in methods:
            rival = best_of(methods, TUNED, methods[name].runs)
            one = difference(methods[name], rival) if rival else None
            if one is not None:
                found[task] = one
    return found


def _gap_rows(tasks: Tasks, runs: Sequence[CachedRun]) -> list[Row]:
    columns = ("to_rival", "lr", "beta", "both", "rest")
    titles = ("to best rival", "LR regret", "β regret", "both", "oracle to rival")
    rows: list[Row] = []
    values: dict[str, dict[str, float]] = {name: {} for name in columns}
    for task, methods in tasks.items():
        found = gap(methods)
        row: Row = {"task": task, "group": GROUP_OF[task]}
        for name, title in zip(columns, titles, strict=True):
            one: Difference | None = getattr(found, name)
            row[title] = "" if one is None else str(one)
            if one is not None:
                values[name][task] = one.value
        oracle = methods.get(LR_ORACLE)
        off = octaves_off(
            [run for run in runs if run.task == task], None if oracle is None else oracle.lr
        )
        row["octaves off"] = "" if off is None else f"{off:+.1f}"
        rows.append(row)
    mean: Row = {"task": "**mean over groups**", "group": ""}
    for name, title in zip(columns, titles, strict=True):
        mean[title] = _over_groups(values[name])
    return [*rows, {**mean, "octaves off": ""}]


def _over_groups(values: Mapping[str, float]) -> str:
    return str(Interval.of(list(by_group(values, GROUP_OF).values()))) if values else ""


def _against_best(tasks: Tasks, compared: Mapping[str, Difference]) -> list[str]:
    if not compared:
        return ["No task has a tuned rival."]
    rows: list[Row] = []
    for task, found in compared.items():
        ours = tasks[task][DEFAULT]
        rival = best_of(tasks[task], TUNED, ours.runs)
        assert rival is not None
        search = statistics.fmean(run.search_steps / run.steps for run in ours.runs.values())
        rows.append(
            {
                "group": GROUP_OF[task],
                "task": task,
                "batch": SUITE[task].batch,
                "default": cell(statistics.fmean(ours.val_losses)),
                "best rival": rival.method,
                "its LR": cell(rival.lr) + ("*" if rival.lr_is_at_end else ""),
                "difference": str(found),
                "seeds": found.seeds,
                "": found.verdict,
                "search": f"{search:.0%}",
            }
        )
    values = {task: found.value for task, found in compared.items()}
    groups = by_group(values, GROUP_OF)
    verdicts = [found.verdict for found in compared.values()]
    counts = ", ".join(f"{name} {verdicts.count(name)}" for name in ("ahead", "tie", "behind"))
    worst = max(values, key=values.__getitem__)
    unseen = [value for task, value in values.items() if SUITE[task].is_unseen]
    told = [
        f"Mean over the {len(unseen)} tasks that were made after the default, none of which it was "
        f"changed for: {Interval.of(unseen)}; median {percent(statistics.median(unseen))}."
        for _ in unseen[:1]
    ]
    return [
        markdown(rows),
        markdown([{"group": group, "mean": percent(mean)} for group, mean in groups.items()]),
        *told,
        f"Mean over {len(groups)} groups: {_over_groups(values)}. Tasks: {counts}. Worst: {worst}, "
        f"{compared[worst]}. * the best LR lies at its grid's end.",
    ]


def _rival_rows(tasks: Tasks) -> list[Row]:
    rows: list[Row] = []
    for name in (*TUNED, *OTHER_RIVALS):
        found: dict[str, Difference] = {}
        for task, methods in tasks.items():
            one = difference(methods[DEFAULT], methods[name]) if name in methods else None
            if one is not None:
                found[task] = one
        verdicts = [one.verdict for one in found.values()]
        values = {task: one.value for task, one in found.items()}
        rows.append(
            {
                "rival": name,
                "tasks": len(found),
                "default's mean over groups": _over_groups(values),
                "median over tasks": percent(statistics.median(values.values())) if values else "",
                **{title: verdicts.count(title) for title in ("ahead", "tie", "behind")},
            }
        )
    return rows


def _families(tasks: Tasks) -> list[str]:
    parts: list[str] = []
    for family, variants in FAMILIES.items():
        scores = {
            variant: {task: one.value for task, one in differences_to_best(tasks, variant).items()}
            for variant in variants
        }
        scores = {variant: found for variant, found in scores.items() if found}
        shared = shared_tasks(scores) if DEFAULT in scores else []
        if len(scores) < 2 or len({GROUP_OF[task] for task in shared}) < 2:
            continue
        judged = leave_one_group_out(scores, GROUP_OF)
        parts += [f"### {family}", markdown([_judged_row(one) for one in judged])]
        chosen = Interval.of([one.value for one in judged])
        default = Interval.of([one.default for one in judged])
        gain = Interval.of([one.value - one.default for one in judged])
        parts.append(
            f"{len(shared)} tasks. Chosen on the others: {chosen}; the default: {default}; the "
            f"choice beside the default: {gain}."
        )
    return parts or ["No family has two variants that were run on tasks of two groups."]


def _judged_row(judged: Judged) -> Row:
    return {
        "group left out": judged.group,
        "chosen": judged.chosen,
        "its mean here": percent(judged.value),
        "default": percent(judged.default),
        "best in hindsight": percent(judged.best),
    }
