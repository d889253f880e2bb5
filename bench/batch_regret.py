"""What is lost when LRs are proposed several at a time, on noisy U-shaped curves with a cliff.

Each curve has its minimum at a random place, a random width on either side, and diverges from a
random place above the minimum. The search sees it with noise and makes ten probes, asked for q
at a time. The regret is the true loss of the LR that it chooses, less the curve's minimum, in
units of the noise-free loss's range below the start (1.0). Paired: all q see the same curves.

    python bench/batch_regret.py
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from record import record

from ray_autolrs.algorithm.search.gp_model import GPSearch

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

    def observe(self, x: float, number: int) -> float | None:
        loss = self.true_loss(x)
        if not math.isfinite(loss):
            return None
        return loss + self.noise * float(np.random.default_rng([self.seed, number]).normal())


def draw_curve(seed: int, noise: float) -> Curve:
    generator = np.random.default_rng(seed)
    minimum = generator.uniform(0.2, 0.8)
    widths = (generator.uniform(0.15, 0.5), generator.uniform(0.1, 0.3))
    return Curve(minimum, widths, minimum + generator.uniform(0.1, 0.4), noise, seed)


def place(lr: float) -> float:
    return math.log(lr / LR_MIN) / math.log(LR_MAX / LR_MIN)


def regret(curve: Curve, batch: int, kappa: float) -> float:
    """Return the regret of ten probes asked for ``batch`` at a time."""
    search = GPSearch(LR_MIN, LR_MAX, seed=(curve.seed,), kappa=kappa, grid_points=1001)
    asked = 0
    while asked < PROBES:
        for lr in search.ask(min(batch, PROBES - asked)):
            search.tell(lr, curve.observe(place(lr), asked))
            asked += 1
    return curve.true_loss(place(search.best()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=int, default=200)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.02, 0.1])
    parser.add_argument("--kappa", type=float, nargs="+", default=[1000.0, 2.0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 5, 10])
    settings = vars(parser.parse_args())
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    table = ""
    for noise in settings["noise"]:
        curves = [draw_curve(seed, noise) for seed in range(settings["curves"])]
        for kappa in settings["kappa"]:
            one_by_one: np.ndarray[Any, Any] | None = None
            for batch in settings["batches"]:
                regrets = np.array([regret(curve, batch, kappa) for curve in curves])
                one_by_one = regrets if one_by_one is None else one_by_one
                difference = regrets - one_by_one
                half_width = 1.96 * difference.std(ddof=1) / math.sqrt(len(curves))
                rows.append(
                    {
                        "noise": noise,
                        "kappa": kappa,
                        "q": batch,
                        "mean regret": float(regrets.mean()),
                        "median regret": float(np.median(regrets)),
                        "minus one by one": float(difference.mean()),
                        "± (95%)": float(half_width),
                    }
                )
                print(rows[-1], flush=True)
                # After each row: a run that is stopped leaves what it has measured.
                table = record("batch_regret", settings, rows)
    print(table)


if __name__ == "__main__":
    main()
