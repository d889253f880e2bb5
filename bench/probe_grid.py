"""Which learning rate (LR) short probes prefer, beside the one that is best for a whole run.

    python -m bench.probe_grid --steps 50 --warmup 0.1 0.5 --seed 0 1

For each open task, kind of probe and seed: the LR of the weighted mean of probes at grid LRs a
factor √10 apart, over the best LR of a run of 2300 steps, as a power of 2; the mean and standard
deviation over ten placements of the grid, between which losses are interpolated.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from bench.measurement import Row, options, write_results
from bench.tasks.catalogue import LEARNING_RATES, OPEN_TASKS, TASKS
from ray_autolrs import ScheduleFreeAverage
from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.algorithm.search.bracket import weighted_mean_lr
from ray_autolrs.algorithm.search.lr_walk import LARGEST_FACTOR
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine

BEST = {"cnn": 0.13, "cnn256": 0.6, "mlp": 0.0028, "lm": 0.006, "translation": 0.0095, "vit": 0.005}
"""LRs of averaging_grid's best runs, to within a factor of 1.5."""

PROBES, PLACEMENTS = 15, 10
WORST_LOSS = 10.0
"""In place of a loss that is larger, or not finite: the losses are interpolated."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--task", nargs="+", choices=OPEN_TASKS, default=OPEN_TASKS)
    parser.add_argument("--steps", nargs="+", type=int, default=[50])
    parser.add_argument("--warmup", nargs="+", type=float, default=[0.5], help="part of a probe")
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1])
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    write_results("probe_grid", vars(arguments), measure(arguments))


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield how far off probes are, for each kind of probe and task."""
    for steps, warmup, task in itertools.product(arguments.steps, arguments.warmup, arguments.task):
        found = [
            value for seed in arguments.seed for value in preferences(task, steps, warmup, seed)
        ]
        yield {
            "steps": steps,
            "warmup": warmup,
            "task": task,
            "log2_over_best": statistics.mean(found),
            "std": statistics.stdev(found),
        }


def preferences(task: str, steps: int, warmup: float, seed: int) -> list[float]:
    """Return log2(LR of the search / best LR of a run), for ten placements of the grid."""
    low, high = (math.log(lr) for lr in LEARNING_RATES[task].search)
    logs = low + (np.arange(PROBES) + 0.5) / PROBES * (high - low)
    found = [probe_losses(task, math.exp(log), steps, warmup, seed) for log in logs]
    initial_loss, losses = found[0][0], [after for _, after in found]
    spacing = math.log(LARGEST_FACTOR)
    result: list[float] = []
    for placement in range(PLACEMENTS):
        grid = np.arange(logs[0] + placement / PLACEMENTS * spacing, logs[-1], spacing)
        told = np.interp(grid, logs, losses)
        lr = weighted_mean_lr(np.exp(grid).tolist(), told.tolist(), initial_loss)
        result.append(math.log2(lr / BEST[task]))
    return result


def probe_losses(task: str, lr: float, steps: int, warmup: float, seed: int) -> tuple[float, float]:
    """Return the validation losses of a probe before its first step and after its last."""
    built = TASKS[task]()
    averaging = ScheduleFreeAverage().resolve(built.global_batch_size)
    engine = Engine(built, Solo(), torch.device("cpu"), seed=seed, averaging=averaging)
    validation = engine.evaluation(built.val_dataset())
    before = engine.evaluate(validation, step=0)["loss"]
    shape = WarmupStableDecay(0, steps, round(warmup * steps), 0)
    losses = engine.loss_table(steps)
    for _ in engine.steps(0, steps, lambda step: lr * shape.factor(step), losses):
        pass
    after = engine.evaluate(validation, step=steps)["loss"]
    is_finite = bool(losses.isfinite().all()) and math.isfinite(after)
    return before, min(after, WORST_LOSS) if is_finite else WORST_LOSS


if __name__ == "__main__":
    main()
