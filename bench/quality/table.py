"""From the quality benchmark's records to its page. Every figure is computed here from records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from bench.quality.runs import Records
from bench.tasks.catalogue import HELD_OUT, TASKS
from ray_autolrs.comparison.record import RunRecord, steps_to
from ray_autolrs.comparison.runs import OURS
from ray_autolrs.comparison.table import (
    TunedMethod,
    at_best_evaluation,
    cell,
    markdown,
    tuned_methods,
)

METHOD = "autolrs"
REFERENCE = "cosine"
"""Whose final validation loss the others' steps are counted to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean with half the width of its 95% interval, by Student's t; None for fewer than two."""

    value: float
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Return the mean of values."""
        value = statistics.fmean(values)
        if len(values) < 2 or not math.isfinite(value):
            return cls(value=value, half_width=None)
        error = statistics.stdev(values) / math.sqrt(len(values))
        return cls(value=value, half_width=float(stats.t.ppf(0.975, len(values) - 1)) * error)

    def __str__(self) -> str:
        if self.half_width is None:
            return f"{self.value:+.4f}"
        return f"{self.value:+.4f} ± {self.half_width:.4f}"


def paired(ours: TunedMethod, rival: TunedMethod) -> list[float]:
    """Return our validation loss minus a rival's, for each seed that both have."""
    shared = sorted(ours.runs.keys() & rival.runs.keys())
    return [ours.runs[seed].val_loss - rival.runs[seed].val_loss for seed in shared]


def best_rival(methods: Mapping[str, TunedMethod]) -> TunedMethod:
    """Return the rival with the lowest mean validation loss, of those run on the most seeds."""
    rivals = [method for name, method in methods.items() if name not in OURS]
    most = max(len(rival.runs) for rival in rivals)
    rivals = [rival for rival in rivals if len(rival.runs) == most]
    return min(rivals, key=lambda rival: statistics.fmean(rival.val_losses))


def seed_std(methods: Mapping[str, TunedMethod]) -> float:
    """Return the seed-to-seed standard deviation, pooled over our method and the rivals.

    The paper's is left out, whose runs differ more than all others', and methods that diverged.
    """
    variances = [
        statistics.variance(method.val_losses)
        for name, method in methods.items()
        if name == METHOD or name not in OURS
        if len(method.runs) > 1 and all(map(math.isfinite, method.val_losses))
    ]
    return math.sqrt(statistics.fmean(variances)) if variances else math.nan


def speedups(method: TunedMethod, reference: TunedMethod, *, with_search: bool) -> list[float]:
    """Return, for each seed, the reference's steps over the method's to the same loss.

    The loss is the reference's last one. A run that does not reach it counts as 1, which is
    too good for it: what it would have taken is not known.
    """
    ratios: list[float] = []
    for seed in sorted(method.runs.keys() & reference.runs.keys()):
        run, other = method.runs[seed], reference.runs[seed]
        needed = steps_to(run, other.val_loss)
        if needed is not None and with_search:
            needed += run.search_steps
        ratios.append(1.0 if needed is None else other.steps / needed)
    return ratios


def page(records: Records, steps: int) -> str:
    """Return the page in Markdown.

    Args:
        records: of all runs; those with other steps are left out.
        steps: applied steps of a run.

    Raises:
        ValueError: no task has runs of AutoLRS, of a rival and of the tuned cosine.
    """
    tasks = _by_task(records, steps)
    complete = {
        task: methods for task, methods in tasks.items() if {METHOD, REFERENCE} <= methods.keys()
    }
    if not complete:
        raise ValueError(
            f"no task has runs of both {METHOD} and {REFERENCE} with {steps} steps; make them first"
        )
    parts = [
        "# Quality of the schedules",
        f"`python -m bench.quality --table --steps {steps}` made this page from "
        "`results/quality.jsonl`; what the figures mean stands below.",
        "## Against the best tuned rival",
        markdown([_summary(task, methods) for task, methods in complete.items()]),
        _means(complete),
        "## How it was measured",
        _protocol(tasks, steps),
    ]
    for task, methods in tasks.items():
        held = ", held out" if task in HELD_OUT else ""
        parts += [f"## {task}{held}", markdown(_rows(methods))]
    return "\n\n".join(parts) + "\n"


def _by_task(records: Records, steps: int) -> dict[str, dict[str, TunedMethod]]:
    found: dict[str, dict[str, TunedMethod]] = {}
    for task in TASKS:
        of_task = [run for key, run in records.items() if key[0] == task and key[4] == steps]
        if of_task:
            found[task] = {
                name: at_best_evaluation(tuned) for name, tuned in tuned_methods(of_task).items()
            }
    return found


def _summary(task: str, methods: Mapping[str, TunedMethod]) -> dict[str, Any]:
    ours, rival = methods[METHOD], best_rival(methods)
    difference = Mean.of(paired(ours, rival))
    search = statistics.fmean(run.search_steps / run.steps for run in ours.runs.values())
    return {
        "task": task + (" (held out)" if task in HELD_OUT else ""),
        "AutoLRS": statistics.fmean(ours.val_losses),
        "best rival": rival.method,
        "its loss": statistics.fmean(rival.val_losses),
        "difference": str(difference),
        "in seed std": f"{difference.value / seed_std(methods):+.2f}",
        "test difference": _test_difference(ours, rival),
        "search": f"{search:.1%}",
        "speed-up": f"{_geometric(speedups(ours, methods[REFERENCE], with_search=False)):.2f}",
        "with search": f"{_geometric(speedups(ours, methods[REFERENCE], with_search=True)):.2f}",
        "tuning / ours": f"{rival.tuning_steps / ours.tuning_steps:.1f}",
    }


def _test_difference(ours: TunedMethod, rival: TunedMethod) -> str:
    differences = [
        one.test_loss - other.test_loss
        for seed, one in ours.runs.items()
        if (other := rival.runs.get(seed)) is not None
        and one.test_loss is not None
        and other.test_loss is not None
    ]
    return str(Mean.of(differences)) if differences else ""


def _means(tasks: Mapping[str, Mapping[str, TunedMethod]]) -> str:
    absolute, relative, in_std = [], [], []
    plain, charged, cheaper = [], [], []
    for methods in tasks.values():
        ours, rival = methods[METHOD], best_rival(methods)
        difference = statistics.fmean(paired(ours, rival))
        absolute.append(difference)
        relative.append(difference / statistics.fmean(rival.val_losses))
        in_std.append(difference / seed_std(methods))
        plain.append(_geometric(speedups(ours, methods[REFERENCE], with_search=False)))
        charged.append(_geometric(speedups(ours, methods[REFERENCE], with_search=True)))
        cheaper.append(rival.tuning_steps / ours.tuning_steps)
    return "\n".join(
        [
            f"Means over the {len(tasks)} tasks, with 95% intervals over tasks:",
            "",
            f"- difference in validation loss: {Mean.of(absolute)}",
            f"- as a part of the rival's loss: {Mean.of(relative)}",
            f"- in seed-to-seed standard deviations: {Mean.of(in_std)}",
            f"- speed-up to the tuned {REFERENCE}'s loss (geometric): {_geometric(plain):.2f}; "
            f"search counted: {_geometric(charged):.2f}",
            f"- steps to tune the best rival over AutoLRS's (geometric): {_geometric(cheaper):.2f}",
        ]
    )


def _protocol(tasks: Mapping[str, Mapping[str, TunedMethod]], steps: int) -> str:
    seeds, tuning_seeds = set[int](), set[int]()
    for methods in tasks.values():
        for method in methods.values():
            seeds |= method.runs.keys()
            if len({record.lr for record in method.records}) > 1:
                tuning_seeds.update(method.tuning_seeds)
    return (
        f"Runs of {steps} applied steps; seeds {_list(seeds)}. A rival's learning rate (LR) is the "
        f"best of its grid by validation loss on seed {_list(tuning_seeds)}, and the same on the "
        "others. Losses are the lowest of a run's evaluations, for every method: AutoLRS keeps the "
        "weights of its best one; test losses of rivals are those at the end. "
        "*difference*: paired over seeds, with its 95% interval by Student's t; below "
        "zero AutoLRS is better. The best rival is the one with the lowest mean validation loss of "
        "those that were run on all seeds, "
        "so it was chosen after the fact, in the rivals' favour. *in seed std*: over the "
        "seed-to-seed standard deviation, pooled over AutoLRS and the task's rivals. *search*: "
        "steps beside the applied ones, evaluations of probes included as their share of a step. "
        "*speed-up*: "
        f"the tuned {REFERENCE}'s steps over the applied steps to its validation loss, "
        "interpolated between evaluations; a run that does not reach it counts as 1. *tuning / "
        "ours*: all steps of the rival's grid over those of one run of AutoLRS. An LR marked * is "
        f"at its grid's end. Not tuned on: {', '.join(HELD_OUT)}; but what went wrong on mlm was "
        "looked for, and mended, on other masked language models (NOTES.md)."
    )


def _rows(methods: Mapping[str, TunedMethod]) -> list[dict[str, Any]]:
    seeds = sorted({seed for method in methods.values() for seed in method.runs})
    reference = methods.get(REFERENCE)
    ordered = sorted(methods.values(), key=lambda method: statistics.fmean(method.val_losses))
    return [_method_row(method, seeds, reference) for method in ordered]


def _method_row(
    method: TunedMethod, seeds: Sequence[int], reference: TunedMethod | None
) -> dict[str, Any]:
    runs = [method.runs.get(seed) for seed in seeds]
    losses = method.val_losses
    is_spread = len(losses) > 1 and all(map(math.isfinite, losses))
    needed = [
        steps_to(run, reference.runs[seed].val_loss)
        for seed, run in method.runs.items()
        if reference is not None and seed in reference.runs
    ]
    reached = [steps for steps in needed if steps is not None]
    return {
        "method": method.method,
        "LR": cell(method.lr) + ("*" if method.lr_is_at_end else ""),
        f"validation, seeds {_list(seeds)}": " / ".join(_loss(run, "val_loss") for run in runs),
        "mean": statistics.fmean(losses),
        "std": statistics.stdev(losses) if is_spread else None,
        "test": " / ".join(_loss(run, "test_loss") for run in runs),
        f"steps to {REFERENCE}": f"{statistics.fmean(reached):.0f}"
        + (f" ({len(reached)} of {len(needed)})" if len(reached) < len(needed) else "")
        if reached
        else "not reached",
        "steps with tuning": f"{method.tuning_steps:.0f}",
    }


def _loss(run: RunRecord | None, name: str) -> str:
    if run is None:
        return "–"
    return "diverged" if run.diverged else f"{getattr(run, name) or math.nan:.4f}"


def _geometric(values: Sequence[float]) -> float:
    return statistics.geometric_mean(values) if values else math.nan


def _list(values: Sequence[int] | set[int]) -> str:
    return ", ".join(str(value) for value in sorted(values)) or "none"
