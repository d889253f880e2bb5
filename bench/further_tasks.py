"""AutoLRS on twelve more tasks.

    python -m bench.further_tasks --task autoencoder digits --seed 0 1

Of the first seven nothing was known while the default was designed. Some are chosen to be hard for
it: few samples, so that the run overfits; a large batch; RMSprop, whose first steps are too long.
masked_source and masked_german were made to find out how it should choose on a plateau, the last
three to see afterwards whether that holds. Rivals get the best of five learning rates (LRs) on the
first seed. Losses are the lowest of a run's evaluations, for every method. Tasks on German, or on
the help texts in English, need the folder of text that the quality benchmark's translation needs.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence

import torch

from bench.measurement import Row, options, write_results
from bench.tasks.catalogue import FURTHER_TASKS
from ray_autolrs.comparison.record import RunRecord
from ray_autolrs.comparison.runs import Trial, run_trial

METHODS = ("autolrs", "wsd", "cosine", "schedule_free_long_warmup")
WIDER = math.sqrt(10)
"""The default searches half a decade more than the rivals' grid on each side."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--task", nargs="+", choices=FURTHER_TASKS, default=list(FURTHER_TASKS))
    parser.add_argument("--method", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=2300)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    write_results("further_tasks", vars(arguments), measure(arguments))


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield the losses of each method on each task, for all seeds."""
    for task, method in itertools.product(arguments.task, arguments.method):
        runs = _tuned(task, method, arguments.seed, arguments.steps)
        losses = [min((loss for _, loss in run.curve), default=run.val_loss) for run in runs]
        yield {
            "task": task,
            "method": method,
            "lr": runs[0].lr,
            "mean": sum(losses) / len(losses),
            "losses": losses,
            "at_the_end": [run.curve[-1][1] if run.curve else run.val_loss for run in runs],
            "search": sum(run.search_steps / run.steps for run in runs) / len(runs),
        }


def _tuned(task: str, method: str, seeds: Sequence[int], steps: int) -> list[RunRecord]:
    """Return a run for each seed at the LR that was best on the first."""
    lrs = FURTHER_TASKS[task][1] if method != "autolrs" else (None,)
    tuning = [_train(task, method, lr, seeds[0], steps) for lr in lrs]
    best = min(tuning, key=lambda run: run.val_loss)
    return [best, *(_train(task, method, best.lr, seed, steps) for seed in seeds[1:])]


def _train(task: str, method: str, lr: float | None, seed: int, steps: int) -> RunRecord:
    make, lrs = FURTHER_TASKS[task]
    interval = (lrs[0] / WIDER, lrs[-1] * WIDER)
    return run_trial(
        make(), Trial(method=method, seed=seed, steps=steps, lr=lr, lr_interval=interval)
    )


if __name__ == "__main__":
    main()
