"""The quality benchmark's runs: which to make, where their records lie, and making them."""

from __future__ import annotations

import itertools
import json
import statistics
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.measurement import RESULTS_FOLDER, Row, commit
from bench.processes import in_processes
from bench.tasks.catalogue import LEARNING_RATES, TASKS
from ray_autolrs.comparison.record import RunRecord
from ray_autolrs.comparison.runs import Trial, plan_trials, run_trial

RESULTS = RESULTS_FOLDER / "quality.jsonl"

Key = tuple[str, str, float | None, int, int]
"""(task, method, lr, seed, steps): a run with the same key is not made again."""

Records = dict[Key, RunRecord]


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityRun:
    """A run of a task of the benchmark."""

    task: str
    trial: Trial

    @property
    def key(self) -> Key:
        """What tells the run from others."""
        trial = self.trial
        return self.task, trial.method, trial.lr, trial.seed, trial.steps


def plan(
    tasks: Iterable[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    lrs: Sequence[float] | None = None,
) -> list[QualityRun]:
    """Return the runs of each method on each task, with the task's own grids and intervals.

    Args:
        tasks: names in ``TASKS``.
        methods: names in :data:`ray_autolrs.comparison.runs.METHODS`.
        seeds: of each run.
        steps: applied steps of a run.
        lrs: replace the rivals' grid; a method that finds its learning rate has none.
    """
    runs: list[QualityRun] = []
    for task, method in itertools.product(tasks, methods):
        rates = LEARNING_RATES[task]
        grid = rates.schedule_free if method.startswith("schedule_free") else rates.rivals
        interval = rates.paper if method == "autolrs_paper" else rates.search
        trials = plan_trials(
            [method], lrs=lrs or grid, lr_interval=interval, seeds=seeds, steps=steps
        )
        runs += [QualityRun(task=task, trial=trial) for trial in trials]
    return runs


def plan_tuned(runs: Sequence[QualityRun], records: Records, tuning_seed: int) -> list[QualityRun]:
    """Return those runs whose learning rate was the best on ``tuning_seed``, the seed's included.

    Raises:
        ValueError: a run with that seed has not been made yet.
    """
    chosen: list[QualityRun] = []
    by_method = itertools.groupby(runs, key=lambda run: (run.task, run.trial.method))
    for (task, method), group in by_method:
        found = list(group)
        lrs = {run.trial.lr for run in found}
        steps = found[0].trial.steps
        losses: dict[float | None, float] = {}
        for lr in lrs:
            key = (task, method, lr, tuning_seed, steps)
            if key not in records:
                raise ValueError(f"{key} has not been run: make the tuning seed's runs first")
            losses[lr] = records[key].val_loss
        best = min(losses, key=losses.__getitem__)
        chosen += [run for run in found if run.trial.lr == best]
    return chosen


def read_records(path: Path) -> Records:
    """Return the records in a file, the newest of each key; none if there is no file."""
    records: Records = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            record = RunRecord.from_dict(values)
            key = (values["task"], record.method, record.lr, record.seed, record.steps)
            records[key] = record
    return records


def make_runs(
    runs: Sequence[QualityRun],
    path: Path,
    *,
    processes: int,
    say: Callable[[str], None],
    redo: bool = False,
) -> Records:
    """Make the runs that a file lacks, append each to it as it ends, and return all records.

    Args:
        runs: to make.
        path: of the file, one JSON object a line.
        processes: runs at a time; 0 makes them in this process.
        say: told of each run.
        redo: make those that the file has, too; readers take the newest.

    Raises:
        RuntimeError: runs failed; those that did not are in the file.
    """
    records = read_records(path)
    missing = [run for run in runs if redo or run.key not in records]
    say(f"{len(missing)} of {len(runs)} runs to make")
    path.parent.mkdir(parents=True, exist_ok=True)
    made_at = commit()
    failures: list[str] = []
    with path.open("a", encoding="utf-8") as file:
        for number, (run, record, failure) in enumerate(
            in_processes(_make, missing, processes), start=1
        ):
            label = " ".join(str(part) for part in run.key)
            if record is None:
                failures.append(f"{label}: {failure}")
                say(f"{number}/{len(missing)} {failures[-1]}")
                continue
            line = {"task": run.task, **record.to_dict(), "commit": made_at}
            file.write(json.dumps(line) + "\n")
            file.flush()
            records[run.key] = record
            say(
                f"{number}/{len(missing)} {label}: validation {record.val_loss:.4f}, "
                f"{record.search_steps:.0f} search steps, {record.seconds:.1f} s"
            )
    if failures:
        raise RuntimeError(f"{len(failures)} runs failed, the first with {failures[0]}")
    return records


_Made = tuple[QualityRun, RunRecord | None, str]


def _make(run: QualityRun) -> _Made:
    torch.set_num_threads(1)
    try:
        return run, run_trial(TASKS[run.task](), run.trial), ""
    except Exception:  # one run's failure must not take the others with it
        return run, None, traceback.format_exc()


def seconds_by_task(records: Records) -> list[Row]:
    """Return the median seconds of a run on each task, to plan with."""
    rows: list[Row] = []
    for task in TASKS:
        seconds = [record.seconds for key, record in records.items() if key[0] == task]
        if seconds:
            rows.append({"task": task, "runs": len(seconds), "seconds": statistics.median(seconds)})
    return rows
