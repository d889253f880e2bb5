"""What the re-search during the run wins back where the one before the first step is misled.

    python -m bench.research --task lm vit --factor 1 0.125 4 --seed 1 2

The learning rate (LR) that the default's search found is multiplied with the factor, and the run is
made without the re-search and with it. ``won_back`` is the part of what the factor cost that the
re-search wins back, or None where the factor cost less than 1%.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence

import torch

from bench.measurement import Row, options, write_results
from bench.misled import Misled
from bench.tasks.catalogue import LEARNING_RATES, OPEN_TASKS, TASKS
from ray_autolrs import AutoLRSConfig, Research
from ray_autolrs.comparison.record import RunRecord
from ray_autolrs.comparison.runs import train_autolrs


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--task", nargs="+", choices=OPEN_TASKS, default=OPEN_TASKS)
    parser.add_argument("--factor", nargs="+", type=float, default=[1.0, 0.125, 4.0])
    parser.add_argument("--seed", nargs="+", type=int, default=[1])
    parser.add_argument("--steps", type=int, default=2300)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    write_results("research", vars(arguments), measure(arguments))


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield, for each task, seed and factor, the losses and costs without and with it."""
    steps = arguments.steps
    for task, seed in itertools.product(arguments.task, arguments.seed):
        undisturbed = _train(task, seed, steps, Misled(factor=1.0, research=None))
        for factor in arguments.factor:
            without = undisturbed
            if factor != 1:
                without = _train(task, seed, steps, Misled(factor=factor, research=None))
            researched = _train(task, seed, steps, Misled(factor=factor, research=Research()))
            lost = without.val_loss - undisturbed.val_loss
            yield {
                "task": task,
                "seed": seed,
                "factor": factor,
                "undisturbed": undisturbed.val_loss,
                "without": without.val_loss,
                "with": researched.val_loss,
                "won_back": (without.val_loss - researched.val_loss) / lost
                if lost > 0.01 * undisturbed.val_loss
                else None,
                "search_without": without.search_steps / steps,
                "search_with": researched.search_steps / steps,
            }


def _train(task: str, seed: int, steps: int, search: Misled) -> RunRecord:
    lr = LEARNING_RATES[task].search
    config = AutoLRSConfig(total_steps=steps, lr=lr, seed=seed, search=search)
    return train_autolrs(TASKS[task](), config)


if __name__ == "__main__":
    main()
