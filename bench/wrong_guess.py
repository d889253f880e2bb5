"""What a wrong guess of the learning rate (LR) costs: the good one times each factor.

    python -m bench.wrong_guess --task cnn lm mlp --factor 0.125 4 --seed 0 1

The last column is the validation loss over that of the run with the good guess and the same seed.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence

import torch

from bench.measurement import Row, options, write_results
from bench.tasks.catalogue import GOOD_LRS, TASKS
from ray_autolrs import AutoLRSConfig
from ray_autolrs.comparison.runs import train_autolrs


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--task", nargs="+", choices=GOOD_LRS, default=["cnn", "lm", "mlp"])
    parser.add_argument("--factor", nargs="+", type=float, default=[0.125, 4.0])
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=2300)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    write_results("wrong_guess", vars(arguments), measure(arguments))


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield the loss and the search's steps from each guess, the good one first."""
    for task, seed in itertools.product(arguments.task, arguments.seed):
        undisturbed: float | None = None
        for factor in [1.0, *(factor for factor in arguments.factor if factor != 1.0)]:
            lr = factor * GOOD_LRS[task]
            config = AutoLRSConfig(total_steps=arguments.steps, lr=lr, seed=seed)
            run = train_autolrs(TASKS[task](), config)
            undisturbed = run.val_loss if undisturbed is None else undisturbed
            yield {
                "task": task,
                "seed": seed,
                "factor": factor,
                "search_steps": run.search_steps,
                "validation_loss": run.val_loss,
                "over_undisturbed": run.val_loss / undisturbed,
            }


if __name__ == "__main__":
    main()
