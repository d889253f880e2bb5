"""From the records of many runs to a table and a plot: each method at its best learning rate (LR).

A method's LR is chosen by validation loss alone, on the seeds that every one of its LRs was run
with. Tuning is charged: a method's total steps are those of all its runs.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_autolrs.comparison.record import RunRecord
from ray_autolrs.lr_axes import new_figure

COLUMNS = (
    "method",
    "lr",
    "lr at grid's end",
    "runs",
    "seeds",
    "validation loss",
    "validation std",
    "test loss",
    "steps a run",
    "search steps a run",
    "total steps",
)
"""Of the table. Losses are means over seeds, validation losses the lowest of each run; the std
is the standard deviation over seeds, and total steps are all that the method cost: its grid, its
seeds and its searches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedMethod:
    """A method at the LR that was best for it.

    Attributes:
        method: its name.
        lr: the LR; None where the method finds its own.
        runs: the run of each seed at this LR, by seed.
        records: all runs of the method, those of other LRs included.
    """

    method: str
    lr: float | None
    runs: Mapping[int, RunRecord]
    records: tuple[RunRecord, ...]

    @property
    def lr_is_at_end(self) -> bool:
        """Whether a larger grid might have given a better LR: the best one lies at its end."""
        lrs = {record.lr for record in self.records if record.lr is not None}
        return len(lrs) > 1 and self.lr in (min(lrs), max(lrs))

    @property
    def val_losses(self) -> list[float]:
        """Validation loss of each seed."""
        return [run.val_loss for run in self.runs.values()]

    @property
    def test_losses(self) -> list[float]:
        """Test loss of each seed, as far as there are any."""
        return [run.test_loss for run in self.runs.values() if run.test_loss is not None]

    @property
    def total_steps(self) -> float:
        """Optimizer steps of all runs."""
        return sum(record.total_steps for record in self.records)

    @property
    def tuning_steps(self) -> float:
        """Optimizer steps that one tuned run costs: the grid, with the seeds it was run with.

        Runs at the chosen LR whose seed the grid was not run with repeat the result, and cost a
        user nothing.
        """
        return sum(run.total_steps for run in self.records if run.seed in self.tuning_seeds)

    @property
    def tuning_seeds(self) -> list[int]:
        """Seeds that the LR was chosen on; one seed where there was nothing to choose."""
        seeds = _seeds_of_all_lrs(self.records)
        return seeds if len({record.lr for record in self.records}) > 1 else seeds[:1]


def tuned_methods(records: Iterable[RunRecord]) -> dict[str, TunedMethod]:
    """Return each method at its best LR, in the order in which the methods first appear.

    An LR with a run that diverged comes last; methods without an LR have nothing to choose.
    """
    by_method: defaultdict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        by_method[record.method].append(record)
    return {method: _tuned(method, found) for method, found in by_method.items()}


def _tuned(method: str, records: Sequence[RunRecord]) -> TunedMethod:
    seeds = _seeds_of_all_lrs(records)
    by_lr: defaultdict[float | None, dict[int, RunRecord]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: record.seed):
        by_lr[record.lr][record.seed] = record

    def mean(lr: float | None) -> float:
        runs = by_lr[lr]
        return statistics.fmean(runs[seed].val_loss for seed in seeds or runs)

    lr = min(by_lr, key=mean)
    return TunedMethod(method=method, lr=lr, runs=by_lr[lr], records=tuple(records))


def _seeds_of_all_lrs(records: Sequence[RunRecord]) -> list[int]:
    """Return the seeds that every LR was run with, sorted."""
    seeds: defaultdict[float | None, set[int]] = defaultdict(set)
    for record in records:
        seeds[record.lr].add(record.seed)
    return sorted(set.intersection(*seeds.values()))


def at_best_evaluation(method: TunedMethod) -> TunedMethod:
    """Return the method with the lowest of each run's evaluations in place of the last.

    AutoLRS keeps the weights of its best evaluation, so that baselines are given theirs, too.
    """
    runs = {
        seed: run
        if run.diverged or not run.curve
        else dataclasses.replace(run, val_loss=min(loss for _, loss in run.curve))
        for seed, run in method.runs.items()
    }
    return dataclasses.replace(method, runs=runs)


def comparison_rows(methods: Iterable[TunedMethod]) -> list[dict[str, Any]]:
    """Return a row of :data:`COLUMNS` for each method, lowest validation loss first."""
    rows = [_row(method) for method in methods]
    return sorted(rows, key=lambda row: row["validation loss"])


def _row(method: TunedMethod) -> dict[str, Any]:
    runs = list(method.runs.values())
    losses = method.val_losses
    is_finite = all(map(math.isfinite, losses))
    tests = method.test_losses
    values = (
        method.method,
        method.lr,
        method.lr_is_at_end,
        len(method.records),
        len(runs),
        statistics.fmean(losses),
        statistics.stdev(losses) if len(losses) > 1 and is_finite else None,
        statistics.fmean(tests) if tests and is_finite else None,
        max(run.steps for run in runs),
        statistics.fmean(run.search_steps for run in runs),
        method.total_steps,
    )
    return dict(zip(COLUMNS, values, strict=True))


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table, losses to four places.

    >>> print(markdown([{"method": "a", "loss": 0.12346, "steps": 20.0, "lr": None}]))
    | method | loss | steps | lr |
    | --- | --- | --- | --- |
    | a | 0.1235 | 20 |  |
    """
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell(row[column]) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "diverged"
        if value == round(value) and abs(value) >= 1:
            return f"{value:.0f}"
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.4g}"
    return str(value)


def write_comparison(records: Sequence[RunRecord], folder: Path) -> str:
    """Write ``comparison.csv``, ``.md`` and ``.png`` into a folder, and return the table.

    Raises:
        ValueError: there are no records.
    """
    if not records:
        raise ValueError("there are no runs to compare; give at least one method")
    folder.mkdir(parents=True, exist_ok=True)
    tuned = tuned_methods(records)
    methods = {name: at_best_evaluation(method) for name, method in tuned.items()}
    rows = comparison_rows(methods.values())
    with (folder / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    table = markdown(rows)
    (folder / "comparison.md").write_text(f"{table}\n", encoding="utf-8")
    plot_comparison(methods, folder / "comparison.png")
    return table


def plot_comparison(methods: Mapping[str, TunedMethod], path: Path) -> None:
    """Draw each method's validation loss, over applied steps and over all steps of a tuned run.

    The left axes show the mean over the seeds at the best LR. The right axes show what the
    method's user pays: tuning and search come before the first step of the run that is kept.
    """
    figure = new_figure(figsize=(12, 5))
    left, right = figure.subplots(1, 2, sharey=True)
    for method in methods.values():
        curve = _mean_curve(method)
        if not curve:
            continue
        steps, losses = zip(*curve, strict=True)
        width = 2.5 if method.method.startswith("autolrs") else 1.2
        label = method.method if method.lr is None else f"{method.method} (LR {method.lr:g})"
        left.plot(steps, losses, label=label, linewidth=width)
        before = method.tuning_steps - max(run.steps for run in method.runs.values())
        right.plot([step + before for step in steps], losses, linewidth=width)
    left.set(xlabel="applied steps", ylabel="validation loss", yscale="log")
    right.set(xlabel="steps with tuning and search", xscale="log")
    left.legend(fontsize="small")
    figure.savefig(path)


def _mean_curve(method: TunedMethod) -> list[tuple[int, float]]:
    """Return the mean over the seeds at the steps that all of them were evaluated at."""
    curves = [dict(run.curve) for run in method.runs.values() if not run.diverged]
    if not curves:
        return []
    shared = set.intersection(*(set(curve) for curve in curves))
    return [(step, statistics.fmean(curve[step] for curve in curves)) for step in sorted(shared)]
