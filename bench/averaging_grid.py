"""How near to the average Schedule-Free takes its gradients, how it weighs steps, and the warm-up.

    python bench/averaging_grid.py --task cnn lm --momentum 0.8 0.9 --power 0 1
    python bench/averaging_grid.py --warmup 0.05 0.2 --warmup-power 1 0.5 --seed 0 1

Each run trains a task of the quality benchmark, without a search, at a learning rate that is the
factor times the one named for the task below; after the warm-up it is constant, or falls to zero
in the last --decay of the run. Without --momentum it is what the task's batch size leads to. The
tasks that are held out cannot be named.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.quality_tasks import HELD_OUT, TASKS
from bench.record import record
from ray_autolrs.algorithm.schedules.decays import Trapezoid
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.comparison.plain_training import train_plain
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.schedule import LRSchedule
from ray_autolrs.training.averaging import ScheduleFree

LRS = {"cnn": 0.15, "cnn256": 0.6, "mlp": 0.003, "lm": 0.006, "translation": 0.01, "vit": 0.006}
"""Near the best of each task, for its optimizer as it is."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    allowed = [name for name in TASKS if name not in HELD_OUT]
    parser.add_argument("--task", nargs="+", choices=allowed, default=allowed)
    parser.add_argument("--momentum", nargs="+", type=float, default=[None])
    parser.add_argument("--power", nargs="+", type=float, default=[None])
    parser.add_argument("--warmup", nargs="+", type=float, default=[0.2], help="part of the run")
    parser.add_argument("--warmup-power", nargs="+", type=float, default=[0.5])
    parser.add_argument("--lr-factor", nargs="+", type=float, default=[1.0])
    parser.add_argument("--decay", nargs="+", type=float, default=[0.0])
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=2300)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    settings = AutoLRSConfig(total_steps=arguments.steps, lr_min=1e-3, lr_max=1.0)
    for task, momentum, power, warmup, rise, factor, decay, seed in itertools.product(
        arguments.task,
        arguments.momentum,
        arguments.power,
        arguments.warmup,
        arguments.warmup_power,
        arguments.lr_factor,
        arguments.decay,
        arguments.seed,
    ):
        steps = arguments.steps
        shape = Trapezoid(0, steps, round(warmup * steps), round(decay * steps), rise)
        lr = factor * LRS[task]
        batch_size = TASKS[task]().global_batch_size
        beta = momentum or settings.resolved_averaging_momentum(batch_size)
        exponent = settings.averaging_power if power is None else power
        run = train_plain(
            TASKS[task](),
            LRSchedule((Segment(0, steps - 1, lr, shape),)),
            method="schedule_free",
            lr=lr,
            steps=steps,
            seed=seed,
            make_average=partial(ScheduleFree, momentum=beta, power=exponent),
            eval_every=steps,
        )
        rows.append(
            {
                "task": task,
                "momentum": beta,
                "power": exponent,
                "warmup": warmup,
                "warmup_power": rise,
                "lr": lr,
                "decay": decay,
                "seed": seed,
                "validation_loss": run.val_loss,
            }
        )
        print(rows[-1], flush=True)
    print(record("averaging_grid", {"steps": arguments.steps}, rows))


if __name__ == "__main__":
    main()
