"""Search without a model: LRs spread over the interval, then closer and closer to the best.

Symbols
    η       learning rate (LR)
    x       log η scaled to [0, 1] over the search interval
    k       probes of a stage
    h       distance between the first probes, 1/m for m of them

At the paper's κ its Gaussian process fills the interval, too. Source: our measurements; with ten
noisy probes the regret was 2.5 where the paper's search had 3.2 (RESEARCH: "six midpoints, then
halve around the best").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ray_autolrs.algorithm.forecast.exponential import Forecast
from ray_autolrs.algorithm.search.stage_probes import judge_stage_probe, stage_candidate
from ray_autolrs.algorithm.search.strategy import Candidate, Observation, StageContext
from ray_autolrs.config import AutoLRSConfig

SPREAD_FRACTION = 0.6
"""Part of a stage's probes that is spread evenly. Ours: six of ten."""


def log_midpoints(lr_min: float, lr_max: float, count: int) -> list[float]:
    """Return the middles of ``count`` equal parts of an interval, in log LR.

    >>> [round(lr, 4) for lr in log_midpoints(1e-2, 1.0, 2)]
    [0.0316, 0.3162]
    """
    low, high = math.log(lr_min), math.log(lr_max)
    return [math.exp(low + (place + 0.5) / count * (high - low)) for place in range(count)]


@dataclass(frozen=True)
class MidpointsStrategy:
    """``search="midpoints"``: at every stage, spread and then halve around the best."""

    config: AutoLRSConfig

    def suggest(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        asked = len(told) + len(running)
        if asked >= self.config.probes_per_stage:
            return None
        spread = self._spread()
        if asked < len(spread):
            return stage_candidate(self.config, context, spread[asked])
        if len(told) < len(spread):
            return None
        lr = self._refined(told, running)
        return None if lr is None else stage_candidate(self.config, context, lr)

    def judge(
        self, context: StageContext, candidate: Candidate, losses: Sequence[float]
    ) -> Forecast:
        return judge_stage_probe(self.config, context, losses)

    def choose(self, context: StageContext, told: Sequence[Observation]) -> float | None:
        best = _best(told)
        return None if best is None else best.lr

    def _spread(self) -> list[float]:
        count = max(1, round(SPREAD_FRACTION * self.config.probes_per_stage))
        return log_midpoints(*self.config.lr_interval, count)

    def _refined(self, told: Sequence[Observation], running: Sequence[float]) -> float | None:
        """Return the LR half a distance beside the best, on the side that is less known."""
        best = _best(told)
        if best is None:
            return None
        lr_min, lr_max = self.config.lr_interval
        spread = len(self._spread())
        round_number = (len(told) + len(running) - spread) // 2
        distance = (math.log(lr_max) - math.log(lr_min)) / spread / 2 ** (round_number + 1)
        tried = [*(result.lr for result in told), *running]

        def apart(lr: float) -> float:
            # Rounded, so that of two sides that are equally known the lower is taken.
            return round(min(abs(math.log(lr / other)) for other in tried), 9)

        while True:
            sides = (best.lr * math.exp(-distance), best.lr * math.exp(distance))
            lr = max((min(max(side, lr_min), lr_max) for side in sides), key=apart)
            if apart(lr) > distance / 2:
                return lr
            distance /= 2  # At an edge one side is outside, and the other may have been tried.


def _best(told: Sequence[Observation]) -> Observation | None:
    judged = [(r.forecast.loss, r.index, r) for r in told if r.forecast is not None]
    return min(judged)[2] if judged else None
