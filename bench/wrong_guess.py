"""What a wrong first guess of the learning rate (LR) costs: ``first_lr`` times each factor.

    python bench/wrong_guess.py --task cnn lm mlp --factor 0.125 1 4 --seed 0 1

The guess that is right is the one named for the task in averaging_grid.py. The last column is the
validation loss over that of the run with the right guess, with the same seed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.averaging_grid import LRS
from bench.quality_tasks import TASKS
from bench.record import record
from ray_autolrs.comparison.runs import train_autolrs
from ray_autolrs.config import AutoLRSConfig


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", nargs="+", choices=LRS, default=["cnn", "lm", "mlp"])
    parser.add_argument("--factor", nargs="+", type=float, default=[0.125, 4.0])
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=2300)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for task, seed in itertools.product(arguments.task, arguments.seed):
        undisturbed = float("nan")
        for factor in [1.0, *(factor for factor in arguments.factor if factor != 1.0)]:
            config = AutoLRSConfig(
                total_steps=arguments.steps,
                lr_min=None,
                lr_max=None,
                first_lr=factor * LRS[task],
                seed=seed,
            )
            run = train_autolrs(TASKS[task](), config)
            undisturbed = run.val_loss if factor == 1.0 else undisturbed
            rows.append(
                {
                    "task": task,
                    "seed": seed,
                    "factor": factor,
                    "search_steps": run.search_steps,
                    "validation_loss": run.val_loss,
                    "over_undisturbed": run.val_loss / undisturbed,
                }
            )
            print(rows[-1], flush=True)
    print(record("wrong_guess", {"steps": arguments.steps}, rows))


if __name__ == "__main__":
    main()
