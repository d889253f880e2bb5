"""The time that deciding a stage takes: all its proposals and the choice, without a probe.

    python -m bench.deciding

The paper's Gaussian process with k probes, on noisy curves, in CPU seconds of one thread; the first
curve warms up. Where scikit-optimize is installed, its ask and tell are timed on the same curves
with its own defaults but for two points that it draws first: no part of the project needs it.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from bench.batch_regret import LR_MAX, LR_MIN, Curve, draw_curve, place
from bench.measurement import Row, options, write_results
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search.gaussian_process import GaussianProcess
from ray_autolrs.algorithm.search.strategy import Observation, RunFacts, StageContext

NOISE, CLIFF_LOSS, INITIAL = 0.05, 2.0, 2


def by_us(curve: Curve, probes: int) -> None:
    """Decide a stage, as the paper does."""
    search = GaussianProcess(probes=probes)
    facts = RunFacts(total_steps=None, lr=(LR_MIN, LR_MAX), seed=curve.seed)
    context = StageContext(Stage(number=1, first_step=0, steps=1000), facts)
    told: list[Observation] = []
    while (candidate := search.suggest(context, told, ())) is not None:
        lr = candidate.peak_lr
        told.append(Observation(len(told), lr, curve.observe(place(lr), len(told))))
    assert len(told) == probes
    assert search.choose(context, told, ()) is not None


def by_scikit_optimize(curve: Curve, probes: int) -> None:
    """Ask and tell as often, in log LR."""
    skopt: Any = importlib.import_module("skopt")
    dimension = skopt.space.Real(LR_MIN, LR_MAX, prior="log-uniform")
    # By default it draws ten points before it fits anything: all of a stage's.
    optimizer = skopt.Optimizer([dimension], n_initial_points=INITIAL, random_state=curve.seed)
    for number in range(probes):
        (lr,) = optimizer.ask()
        forecast = curve.observe(place(lr), number)
        loss = CLIFF_LOSS if forecast is None else forecast.loss
        optimizer.tell([lr], loss if math.isfinite(loss) else CLIFF_LOSS)


def seconds(decide: Callable[[Curve, int], None], probes: int, curves: int) -> float:
    """Return the median CPU seconds of a stage."""
    times = []
    for seed in range(curves + 1):
        curve = draw_curve(seed, NOISE)
        started_s = time.process_time()
        decide(curve, probes)
        times.append(time.process_time() - started_s)
    return statistics.median(times[1:])


def measure(probes: Sequence[int], curves: int) -> Iterator[Row]:
    has_rival = importlib.util.find_spec("skopt") is not None
    for number in probes:
        ours_s = seconds(by_us, number, curves)
        theirs_s = seconds(by_scikit_optimize, number, curves) if has_rival else None
        yield {
            "probes": number,
            "s": ours_s,
            "s a probe": ours_s / number,
            "scikit-optimize, s": theirs_s,
            "ratio": None if theirs_s is None else ours_s / theirs_s,
        }


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--probes", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--curves", type=int, default=5)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = measure(arguments.probes, arguments.curves)
    write_results("deciding", vars(arguments), rows)


if __name__ == "__main__":
    main()
