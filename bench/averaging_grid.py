"""How near to the average Schedule-Free takes its gradients, how it weighs steps, and the warm-up.

    python -m bench.averaging_grid --task cnn lm --momentum 0.8 0.9 --power 0 1
    python -m bench.averaging_grid --warmup 0.05 0.2 --warmup-power 1 0.5 --seed 0 1

Each run trains an open task of the quality benchmark, without a search, at the task's good learning
rate (LR) times the factor; after the warm-up it is constant, or falls to zero in the last --decay
of the run. Without --momentum it is what the task's batch size leads to.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence

import torch

from bench.measurement import Row, options, write_results
from bench.tasks.catalogue import GOOD_LRS, OPEN_TASKS, TASKS
from ray_autolrs import LRSchedule, ScheduleFreeAverage
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.comparison.plain_training import train_plain


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--task", nargs="+", choices=OPEN_TASKS, default=OPEN_TASKS)
    parser.add_argument("--momentum", nargs="+", type=float, default=[None])
    parser.add_argument("--power", nargs="+", type=float, default=[2.0])
    parser.add_argument("--warmup", nargs="+", type=float, default=[0.2], help="part of the run")
    parser.add_argument("--warmup-power", nargs="+", type=float, default=[0.5])
    parser.add_argument("--lr-factor", nargs="+", type=float, default=[1.0])
    parser.add_argument("--decay", nargs="+", type=float, default=[0.0])
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=2300)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    write_results("averaging_grid", vars(arguments), measure(arguments))


def measure(grid: argparse.Namespace) -> Iterator[Row]:
    """Yield the validation loss of each run of the grid."""
    steps = grid.steps
    for task, momentum, power, warmup, rise, factor, decay, seed in itertools.product(
        grid.task,
        grid.momentum,
        grid.power,
        grid.warmup,
        grid.warmup_power,
        grid.lr_factor,
        grid.decay,
        grid.seed,
    ):
        shape = WarmupStableDecay(0, steps, round(warmup * steps), round(decay * steps), rise)
        lr = factor * GOOD_LRS[task]
        built = TASKS[task]()
        averaging = ScheduleFreeAverage(momentum=momentum, power=power)
        averaging = averaging.resolve(built.global_batch_size)
        run = train_plain(
            built,
            LRSchedule((Segment(0, steps - 1, lr, shape),)),
            method="schedule_free",
            lr=lr,
            steps=steps,
            seed=seed,
            averaging=averaging,
            eval_every=steps,
        )
        yield {
            "task": task,
            "momentum": averaging.momentum,
            "power": power,
            "warmup": warmup,
            "warmup_power": rise,
            "lr": lr,
            "decay": decay,
            "seed": seed,
            "validation_loss": run.val_loss,
        }


if __name__ == "__main__":
    main()
