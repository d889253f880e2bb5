"""What the insurance wins back where the search before the first step is misled.

    python bench/insurance.py --task lm vit --factor 1 0.125 4 --seed 1 2

The learning rate (LR) that the default's search found is multiplied with the factor, and the run is
made without the insurance and with it. ``won_back`` is the part of what the factor cost that the
insurance wins back; the table leaves it out where the factor cost less than 1%.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.quality_lrs import LEARNING_RATES
from bench.quality_tasks import HELD_OUT, TASKS
from bench.record import record
from ray_autolrs.algorithm import insurance
from ray_autolrs.algorithm.search.bracket import BracketStrategy
from ray_autolrs.comparison.record import RunRecord
from ray_autolrs.comparison.runs import train_autolrs
from ray_autolrs.config import AutoLRSConfig

NEVER = insurance.LAST_RESEARCHED_STAGE + 1


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    allowed = [name for name in TASKS if name not in HELD_OUT]
    parser.add_argument("--task", nargs="+", choices=allowed, default=allowed)
    parser.add_argument("--factor", nargs="+", type=float, default=[1.0, 0.125, 4.0])
    parser.add_argument("--seed", nargs="+", type=int, default=[1])
    parser.add_argument("--steps", type=int, default=2300)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for task, seed in itertools.product(arguments.task, arguments.seed):
        lr_min, lr_max = LEARNING_RATES[task].search
        config = AutoLRSConfig(total_steps=arguments.steps, lr_min=lr_min, lr_max=lr_max, seed=seed)
        undisturbed = _train(task, config, 1.0, insured=False)
        for factor in arguments.factor:
            without = undisturbed if factor == 1 else _train(task, config, factor, insured=False)
            insured = _train(task, config, factor, insured=True)
            lost = without.val_loss - undisturbed.val_loss
            rows.append(
                {
                    "task": task,
                    "seed": seed,
                    "factor": factor,
                    "undisturbed": undisturbed.val_loss,
                    "without": without.val_loss,
                    "with": insured.val_loss,
                    "won_back": (without.val_loss - insured.val_loss) / lost
                    if lost > 0.01 * undisturbed.val_loss
                    else None,
                    "search_without": without.search_steps / arguments.steps,
                    "search_with": insured.search_steps / arguments.steps,
                }
            )
            print(rows[-1], flush=True)
    print(record("insurance", {"steps": arguments.steps}, rows))


def _train(task: str, config: AutoLRSConfig, factor: float, *, insured: bool) -> RunRecord:
    found = BracketStrategy.corrected

    def misled(self: BracketStrategy, lr: float) -> float:
        return factor * found(self, lr)

    stage = insurance.RESEARCHED_STAGE if insured else NEVER
    with (
        mock.patch.object(BracketStrategy, "corrected", misled),
        mock.patch.object(insurance, "RESEARCHED_STAGE", stage),
    ):
        return train_autolrs(TASKS[task](), config)


if __name__ == "__main__":
    main()
