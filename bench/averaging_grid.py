"""How near to the average Schedule-Free takes its gradients, and how it weighs steps.

    python bench/averaging_grid.py --task cnn lm --momentum 0.8 0.9 --power 0 1 --lr-factor 1

Each run trains a task of the quality benchmark, without a search, at a learning rate that is the
factor times the one named for the task below; warm-up is 5% of the run and the rest constant, or
falls to zero in the last --decay of it. The tasks that are held out cannot be named.
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
from ray_autolrs.algorithm.decays import Trapezoid
from ray_autolrs.algorithm.segments import Segment
from ray_autolrs.schedule import LRSchedule
from ray_autolrs.training.averaging import ScheduleFree
from ray_autolrs.workloads.plain_training import train_plain

LRS = {"cnn": 0.15, "cnn256": 0.3, "mlp": 0.003, "lm": 0.006, "translation": 0.01, "vit": 0.006}
"""Near the best of each task, for its optimizer as it is."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    allowed = [name for name in TASKS if name not in HELD_OUT]
    parser.add_argument("--task", nargs="+", choices=allowed, default=allowed)
    parser.add_argument("--momentum", nargs="+", type=float, default=[0.8, 0.85, 0.9])
    parser.add_argument("--power", nargs="+", type=float, default=[0.0, 1.0])
    parser.add_argument("--lr-factor", nargs="+", type=float, default=[1.0])
    parser.add_argument("--decay", nargs="+", type=float, default=[0.0])
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=2300)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for task, momentum, power, factor, decay, seed in itertools.product(
        arguments.task,
        arguments.momentum,
        arguments.power,
        arguments.lr_factor,
        arguments.decay,
        arguments.seed,
    ):
        steps = arguments.steps
        shape = Trapezoid(0, steps, round(0.05 * steps), round(decay * steps))
        lr = factor * LRS[task]
        run = train_plain(
            TASKS[task](),
            LRSchedule((Segment(0, steps - 1, lr, shape),)),
            method="schedule_free",
            lr=lr,
            steps=steps,
            seed=seed,
            make_average=partial(ScheduleFree, momentum=momentum, power=power),
            eval_every=steps,
        )
        rows.append(
            {
                "task": task,
                "momentum": momentum,
                "power": power,
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
