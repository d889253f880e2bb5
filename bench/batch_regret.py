"""What is lost when LRs are proposed several at a time, on noisy U-shaped curves with a cliff.

    python -m bench.batch_regret --noise 0.05 --kappa 1000 2

Each curve has its minimum at a random place, a random width on either side, and diverges from a
random place above the minimum. The search sees it with noise and makes ten probes, asked for q
at a time. The regret is the true loss of the LR that it chooses, less the curve's minimum, in
units of the noise-free loss's range below the start (1.0). Paired: all q see the same curves.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bench.measurement import Row, options, write_results
from ray_autolrs import GaussianProcess
from ray_autolrs.algorithm.forecast.forecaster import Forecast
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search.strategy import Observation, RunFacts, StageContext

PROBES = 10
LR_MIN, LR_MAX = 1e-3, 1.0


@dataclass(frozen=True)
class Curve:
    """A loss over x, the log LR scaled to [0, 1]."""

    minimum: float
    widths: tuple[float, float]
    cliff: float
    noise: float
    seed: int

    def true_loss(self, x: float) -> float:
        if x >= self.cliff:
            return math.inf
        width = self.widths[0] if x < self.minimum else self.widths[1]
        return 1.0 - math.exp(-(((x - self.minimum) / width) ** 2))

    def observe(self, x: float, index: int) -> Forecast | None:
        loss = self.true_loss(x)
        if not math.isfinite(loss):
            return None
        error = float(np.random.default_rng([self.seed, index]).normal())
        return Forecast(loss + self.noise * error, self.noise)


def draw_curve(seed: int, noise: float) -> Curve:
    generator = np.random.default_rng(seed)
    minimum = generator.uniform(0.2, 0.8)
    widths = (generator.uniform(0.15, 0.5), generator.uniform(0.1, 0.3))
    return Curve(minimum, widths, minimum + generator.uniform(0.1, 0.4), noise, seed)


def regret(curve: Curve, batch: int, kappa: float) -> float:
    """Return the regret of ten probes asked for ``batch`` at a time."""
    search = GaussianProcess(probes=PROBES, kappa=kappa)
    facts = RunFacts(total_steps=None, lr=(LR_MIN, LR_MAX), seed=curve.seed)
    context = StageContext(Stage(number=1, first_step=0, steps=1000), facts)
    told: list[Observation] = []
    while len(told) < PROBES:
        running: list[float] = []
        while len(running) < min(batch, PROBES - len(told)):
            candidate = search.suggest(context, told, running)
            assert candidate is not None, (told, running)
            running.append(candidate.peak_lr)
        for lr in running:
            told.append(Observation(len(told), lr, curve.observe(place(lr), len(told))))
    choice = search.choose(context, told, ())
    assert choice is not None, told
    return curve.true_loss(place(choice.peak_lr))


def place(lr: float) -> float:
    return math.log(lr / LR_MIN) / math.log(LR_MAX / LR_MIN)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--curves", type=int, default=200)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.02, 0.1])
    parser.add_argument("--kappa", type=float, nargs="+", default=[1000.0, 2.0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 5, 10])
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    write_results("batch_regret", vars(arguments), measure(arguments))


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield the regrets of each noise, κ and q, and what they are above those of the first q."""
    for noise, kappa in itertools.product(arguments.noise, arguments.kappa):
        curves = [draw_curve(seed, noise) for seed in range(arguments.curves)]
        reference: np.ndarray | None = None
        for batch in arguments.batches:
            regrets = np.array([regret(curve, batch, kappa) for curve in curves])
            reference = regrets if reference is None else reference
            difference = regrets - reference
            yield {
                "noise": noise,
                "kappa": kappa,
                "q": batch,
                "mean regret": float(regrets.mean()),
                "median regret": float(np.median(regrets)),
                "minus one by one": float(difference.mean()),
                "± (95%)": float(1.96 * difference.std(ddof=1) / math.sqrt(len(curves))),
            }


if __name__ == "__main__":
    main()
