"""Which learning rate (LR) short probes prefer, beside the one that is best for a whole run.

    python bench/probe_grid.py --steps 50 --warmup 0.1 0.5 --seed 0 1

For each task, kind of probe and seed: the LR of the weighted mean of probes on rungs a factor √10
apart, over the best LR of a run of 2300 steps, as a power of 2; the mean and standard deviation
over ten placements of the rungs, between which losses are interpolated. The best LRs below are
from averaging_grid.py, to within a factor of 1.5. The tasks that are held out cannot be named.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.quality_lrs import LEARNING_RATES
from bench.quality_tasks import HELD_OUT, TASKS
from bench.record import record
from ray_autolrs.algorithm.forecast.exponential import Forecast
from ray_autolrs.algorithm.schedules.decays import Trapezoid
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.search.bracket import RUNG, TEMPERATURE
from ray_autolrs.algorithm.search.first_search import weighted_mean_lr
from ray_autolrs.algorithm.search.midpoints import log_midpoints
from ray_autolrs.algorithm.search.strategy import Observation
from ray_autolrs.comparison.plain_training import PlainRun
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.schedule import LRSchedule
from ray_autolrs.training.averaging import ScheduleFree

BEST = {"cnn": 0.13, "cnn256": 0.6, "mlp": 0.0028, "lm": 0.006, "translation": 0.0095, "vit": 0.005}
WORST_LOSS = 10.0
"""In place of a loss that is larger, or not finite: the losses are interpolated."""


def probe_loss(task: str, lr: float, steps: int, warmup: float, seed: int) -> tuple[float, float]:
    """Return the validation losses of a probe before its first step and after its last."""
    built = TASKS[task]()
    settings = AutoLRSConfig(total_steps=None, lr_min=1e-3, lr_max=1.0)
    momentum = settings.resolved_averaging_momentum(built.global_batch_size)
    run = PlainRun(
        built,
        seed=seed,
        device=torch.device("cpu"),
        make_average=partial(ScheduleFree, momentum=momentum, power=settings.averaging_power),
    )
    before = run.validation_loss(0)
    shape = Trapezoid(0, steps, round(warmup * steps), 0)
    if not run.steps(LRSchedule((Segment(0, steps - 1, lr, shape),)), 0, steps):
        return before, WORST_LOSS
    after = run.validation_loss(steps)
    return before, min(after, WORST_LOSS) if math.isfinite(after) else WORST_LOSS


def preferences(task: str, steps: int, warmup: float, seed: int) -> list[float]:
    """Return log2(LR of the search / best LR of a run), for ten placements of the rungs."""
    lrs = log_midpoints(*LEARNING_RATES[task].search, 15)
    found = [probe_loss(task, lr, steps, warmup, seed) for lr in lrs]
    logs, losses = np.log(lrs), [after for _, after in found]
    result: list[float] = []
    for placement in range(10):
        rungs = np.arange(logs[0] + placement / 10 * math.log(RUNG), logs[-1], math.log(RUNG))
        told = [
            Observation(place, math.exp(rung), Forecast(float(np.interp(rung, logs, losses)), 0.0))
            for place, rung in enumerate(rungs)
        ]
        result.append(math.log2(weighted_mean_lr(told, found[0][0], TEMPERATURE) / BEST[task]))
    return result


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    allowed = [name for name in TASKS if name not in HELD_OUT]
    parser.add_argument("--task", nargs="+", choices=allowed, default=allowed)
    parser.add_argument("--steps", nargs="+", type=int, default=[50])
    parser.add_argument("--warmup", nargs="+", type=float, default=[0.5], help="part of a probe")
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1])
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for steps, warmup, task in itertools.product(arguments.steps, arguments.warmup, arguments.task):
        found = [
            value for seed in arguments.seed for value in preferences(task, steps, warmup, seed)
        ]
        rows.append(
            {
                "steps": steps,
                "warmup": warmup,
                "task": task,
                "log2_over_best": statistics.mean(found),
                "std": statistics.stdev(found),
            }
        )
        print(rows[-1], flush=True)
    print(record("probe_grid", {"seeds": arguments.seed}, rows))


if __name__ == "__main__":
    main()
