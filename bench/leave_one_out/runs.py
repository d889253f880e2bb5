"""Which runs to make, how long they will take, and making them."""

from __future__ import annotations

import itertools
import statistics
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.leave_one_out.comparison import tuned_by_task
from bench.leave_one_out.methods import Method, Trained
from bench.leave_one_out.registry import BOTH_ARMS, LR_ORACLE, METHODS
from bench.leave_one_out.store import Cache, CachedRun, Key, append, read_cache
from bench.measurement import commit
from bench.processes import in_processes
from bench.tasks.suite import SUITE

GUESSED_STEP_S = 0.008
"""Seconds of a step where the cache has no run to tell them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run to make."""

    task: str
    method: str
    lr: float | None
    seed: int
    steps: int

    @property
    def key(self) -> Key:
        """Its key in the cache."""
        return Key(
            self.task,
            SUITE[self.task].version,
            self.method,
            METHODS[self.method].version,
            self.lr,
            self.seed,
            self.steps,
        )


def plan(
    tasks: Iterable[str], methods: Iterable[str], seeds: Iterable[int], steps: int
) -> list[Run]:
    """Return the runs of each method on each task at each of its learning rates (LRs)."""
    return [
        Run(task=task, method=method, lr=lr, seed=seed, steps=steps)
        for task, method, seed in itertools.product(tasks, methods, seeds)
        for lr in METHODS[method].lrs(SUITE[task])
    ]


def at_best_lr(runs: Iterable[Run], cache: Cache, tuning_seed: int) -> list[Run]:
    """Return those runs whose LR was the best of their method and task on ``tuning_seed``.

    Raises:
        ValueError: no run with that seed has been made.
    """
    chosen: list[Run] = []
    found = sorted(runs, key=lambda run: (run.task, run.method))
    for (task, method), group in itertools.groupby(found, lambda run: (run.task, run.method)):
        of_method = list(group)
        # A grid that was walked has not all of its LRs.
        keys = {run.lr: run.key._replace(seed=tuning_seed) for run in of_method}
        losses = {lr: cache[key].lowest for lr, key in keys.items() if key in cache}
        if not losses:
            raise ValueError(f"{task} {method} has no run with seed {tuning_seed}")
        best = min(losses, key=losses.__getitem__)
        chosen += [run for run in of_method if run.lr == best]
    return chosen


def near_oracle(runs: Iterable[Run], cache: Cache) -> list[Run]:
    """Leave out runs of the arms of both oracles whose LR is not near the LR oracle's best.

    That LR, half of it and twice of it remain, on each task the same for all seeds.

    Raises:
        ValueError: the LR oracle has no runs on a task.
    """
    return [
        run
        for run in runs
        if run.method not in BOTH_ARMS or _is_near(run.lr, _oracle_lr(run.task, run.steps, cache))
    ]


def _is_near(lr: float | None, best: float) -> bool:
    assert lr is not None
    return 0.4 < lr / best < 2.5


def _oracle_lr(task: str, steps: int, cache: Cache) -> float:
    methods = tuned_by_task(cache, steps).get(task, {})
    if LR_ORACLE not in methods:
        raise ValueError(
            f"{task} has no runs of {LR_ORACLE}: make those first, the arms of both oracles are "
            "run near its best LR"
        )
    lr = methods[LR_ORACLE].lr
    assert lr is not None
    return lr


def estimated_minutes(runs: Sequence[Run], cache: Cache, processes: int) -> float:
    """Return how long runs will take, from the seconds of a step of each task in the cache."""
    seconds: dict[str, list[float]] = {}
    for cached in cache.values():
        if not cached.record.diverged:
            of_step = cached.record.seconds / cached.record.total_steps
            seconds.setdefault(cached.task, []).append(of_step)
    medians = {task: statistics.median(found) for task, found in seconds.items()}
    usual = statistics.median(medians.values()) if medians else GUESSED_STEP_S
    total = sum(run.steps * METHODS[run.method].cost * medians.get(run.task, usual) for run in runs)
    return total / max(1, processes) / 60


def make_runs(
    runs: Sequence[Run],
    path: Path,
    *,
    processes: int,
    say: Callable[[str], None],
    is_dry: bool = False,
) -> Cache:
    """Make the runs that the cache lacks, append each as it ends, and return the cache.

    Args:
        runs: to make.
        path: of the cache.
        processes: runs at a time, of one thread each; 0 makes them in this process.
        say: told of the estimate, and of each run.
        is_dry: tell the estimate, make no runs.

    Raises:
        RuntimeError: runs failed; those that did not are in the cache.
    """
    cache = read_cache(path)
    missing = list(dict.fromkeys(run for run in runs if run.key not in cache))
    minutes = estimated_minutes(missing, cache, processes)
    say(f"{len(missing)} of {len(runs)} runs to make, about {minutes:.0f} minutes")
    if is_dry:
        return cache
    made_at = commit()
    failures: list[str] = []
    for number, (run, made, failure) in enumerate(in_processes(_make, missing, processes), start=1):
        label = f"{number}/{len(missing)} {run.task} {run.method} lr={run.lr} seed={run.seed}"
        if made is None:
            failures.append(f"{label}: {failure}")
            say(failures[-1])
            continue
        record, found_lr = made
        cached = CachedRun(
            task=run.task,
            task_version=SUITE[run.task].version,
            group=SUITE[run.task].group,
            version=run.key.version,
            found_lr=found_lr,
            record=record,
            commit=made_at,
        )
        append(path, [cached])
        cache[cached.key] = cached
        say(f"{label}: lowest {cached.lowest:.4f}, {record.seconds:.1f} s")
    if failures:
        raise RuntimeError(f"{len(failures)} runs failed, the first with {failures[0]}")
    return cache


_Made = tuple[Run, Trained | None, str]


def _make(run: Run) -> _Made:
    torch.set_num_threads(1)
    task = SUITE[run.task]
    method: Method = METHODS[run.method]
    try:
        made = method.train(task.make(), task, lr=run.lr, steps=run.steps, seed=run.seed)
    except Exception:  # one run's failure must not take the others with it
        return run, None, traceback.format_exc()
    return run, made, ""
