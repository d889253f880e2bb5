"""Searches before the first step: what they share, and when a later stage is searched again.

Symbols
    η_j   learning rate (LR) of probe j
    Z_j   what probe j ended at: its validation loss, at the averaged weights
    ΔZ    training loss before the first step, less the smallest Z
    w_j   weight of a probe, exp(-(Z_j - min Z) / (temperature ΔZ)) / sum of these

The weighted mean of the last round, ln m = Σ w_j ln η_j, is corrected for the length of the run
and applied. Later stages are not searched, unless the multiplier is in doubt: the best LR of the
first search was the smallest or the largest that it tried, or the last re-search moved it. Then
REGION times the multiplier is tried, within the interval, and the weighted mean is taken if it
lies further away than HYSTERESIS.

Source: our measurements (bench/NOTES.md).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ray_autolrs.algorithm.forecast import Forecast
from ray_autolrs.algorithm.run_shape import run_shape
from ray_autolrs.algorithm.shapes import Shape
from ray_autolrs.algorithm.stage_probes import training_forecaster
from ray_autolrs.algorithm.strategy import (
    MOST_RETREATS,
    Candidate,
    Observation,
    PastStage,
    StageContext,
)
from ray_autolrs.config import AutoLRSConfig

REGION = (1 / 3, 1.0, 3.0)
"""Factors of the multiplier that a re-search tries. Ours: about the distance of first LRs."""

REGION_PROBE_FRACTION = 0.1
"""Steps of a re-search's probe as a fraction of its stage. Source: the paper's τ′/τ."""

HYSTERESIS = 1.5
"""A re-search changes the multiplier by at least this factor, or not at all. Ours."""

LAST_RESEARCHED_STAGE = 4
"""No stage after it is searched: too little of the run is left to gain by it."""


@dataclass(frozen=True)
class FirstSearch(ABC):
    """A strategy that searches before the first step, and later only what is in doubt."""

    config: AutoLRSConfig
    temperature: ClassVar[float]
    """Of the weighted mean, as a part of the loss that has been gained."""

    @property
    @abstractmethod
    def interval(self) -> tuple[float, float]:
        """The smallest and the largest LR that may be tried."""

    @abstractmethod
    def suggest_first(
        self, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        """Return the next probe before the first step, as ``SearchStrategy.suggest``."""

    @abstractmethod
    def finalists(self, results: Sequence[Observation]) -> list[Observation]:
        """Return those of a first search's results that are weighed, all of them judged."""

    @abstractmethod
    def first_probes(self, results: Sequence[Observation]) -> int:
        """Return how many of a first search's results are probes; LRs that were applied follow."""

    @abstractmethod
    def corrected(self, lr: float) -> float:
        """Return the LR for the whole run that belongs to one found in short probes."""

    def suggest(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        if not context.past:
            return self.suggest_first(told, running)
        lrs, asked = self._region(context), len(told) + len(running)
        if asked >= len(lrs):
            return None
        steps = max(
            self.config.resolved_probe_steps, round(REGION_PROBE_FRACTION * context.stage.steps)
        )
        return self.candidate(lrs[asked], steps, run_shape(self.config))

    def judge(
        self, context: StageContext, candidate: Candidate, losses: Sequence[float]
    ) -> Forecast:
        if candidate.evals == 0:
            return training_forecaster(self.config).forecast(losses, horizon=context.stage.steps)
        # One validation loss says nothing about its own error.
        return Forecast(loss=losses[-1], std=math.nan)

    def choose(self, context: StageContext, told: Sequence[Observation]) -> float | None:
        searched = [result for result in told if result.forecast is not None]
        if context.past:
            lr = self._moved(context, searched)
        elif searched:
            lr = self.corrected(self._mean(context, self.finalists(searched)))
        else:
            return None
        # An LR that diverged does so again; behind the probes stand those that were applied.
        probes = len(self._region(context)) if context.past else self.first_probes(told)
        diverged = [result for result in told if result.forecast is None]
        if sum(result.index >= probes for result in diverged) > MOST_RETREATS:
            return None
        return min([lr, *(0.5 * result.lr for result in diverged if result.lr <= lr)])

    def candidate(self, lr: float, steps: int, shape: Shape) -> Candidate:
        """Return a probe that is judged as the settings say."""
        return Candidate(lr, steps, 1 if self.config.forecaster is None else 0, shape)

    def _mean(self, context: StageContext, results: Sequence[Observation]) -> float:
        return weighted_mean_lr(results, context.initial_loss, self.temperature)

    def _region(self, context: StageContext) -> list[float]:
        """Return the LRs to try at a later stage; none where the multiplier is not in doubt."""
        past = context.past
        if len(past) >= LAST_RESEARCHED_STAGE or not self._is_in_doubt(past):
            return []
        low, high = self.interval
        lrs = [min(max(factor * past[-1].lr, low), high) for factor in REGION]
        return sorted(set(lrs))

    def _is_in_doubt(self, past: Sequence[PastStage]) -> bool:
        last = past[-1]
        if len(past) > 1:
            was_searched = any(result.forecast is not None for result in last.results)
            return was_searched and last.lr != past[-2].lr
        judged = [
            (r.forecast.loss, r.lr) for r in self.finalists(last.results) if r.forecast is not None
        ]
        tried = [result.lr for result in last.results[: self.first_probes(last.results)]]
        return bool(judged) and min(judged)[1] in (min(tried), max(tried))

    def _moved(self, context: StageContext, searched: Sequence[Observation]) -> float:
        now = context.past[-1].lr
        if not searched:
            return now
        wanted = self._mean(context, searched)
        return wanted if abs(math.log(wanted / now)) > math.log(HYSTERESIS) else now


def anneal_steps(config: AutoLRSConfig) -> int:
    """Return the steps in which a probe without averaging falls to zero at its end."""
    return config.resolved_probe_steps // 2 if config.averaging == "none" else 0


def weighted_mean_lr(
    results: Sequence[Observation], initial_loss: float, temperature: float
) -> float:
    """Return exp(Σ w_j ln η_j) over judged probes.

    A mean, because the best of a few noisy losses is often a neighbour of the best LR.

    >>> near = [Observation(0, 0.1, Forecast(1.0, 0.0)), Observation(1, 0.4, Forecast(1.0, 0.0))]
    >>> round(weighted_mean_lr(near, initial_loss=2.0, temperature=0.03), 6)
    0.2
    """
    losses = [result.forecast.loss for result in results if result.forecast is not None]
    smallest = min(losses)
    gained = initial_loss - smallest
    scale = temperature * (gained if gained > 0 else max(abs(smallest), 1e-12))
    weights = [math.exp(-(loss - smallest) / scale) for loss in losses]
    logs = [math.log(result.lr) for result in results if result.forecast is not None]
    return math.exp(math.fsum(map(math.prod, zip(weights, logs, strict=True))) / math.fsum(weights))
