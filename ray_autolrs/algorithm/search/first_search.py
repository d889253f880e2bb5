"""Searches before the first step: what they share.

Symbols
    η_j   learning rate (LR) of probe j
    Z_j   what probe j ended at: its validation loss, at the averaged weights
    ΔZ    training loss before the first step, less the smallest Z
    w_j   weight of a probe, exp(-(Z_j - min Z) / (temperature ΔZ)) / sum of these

The weighted mean of the last round, ln m = Σ w_j ln η_j, is corrected for the length of the run
and applied. A later stage is searched only if the forecast of what another LR would gain says so
(:mod:`ray_autolrs.algorithm.search.research`).

Source: our measurements (bench/NOTES.md).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ray_autolrs.algorithm.forecast.exponential import Forecast
from ray_autolrs.algorithm.schedules.run_shape import run_shape
from ray_autolrs.algorithm.schedules.shapes import Shape
from ray_autolrs.algorithm.search.research import chosen_lr, lrs_to_try, reprobe_steps
from ray_autolrs.algorithm.search.stage_probes import training_forecaster
from ray_autolrs.algorithm.search.strategy import (
    MOST_RETREATS,
    Candidate,
    Observation,
    StageContext,
)
from ray_autolrs.config import AutoLRSConfig


@dataclass(frozen=True)
class FirstSearch(ABC):
    """A strategy that searches before the first step, and later where a forecast says so."""

    config: AutoLRSConfig
    temperature: ClassVar[float]
    """Of the weighted mean, as a part of the loss that has been gained."""

    @property
    @abstractmethod
    def interval(self) -> tuple[float, float]:
        """The smallest and the largest LR that may be tried."""

    @abstractmethod
    def suggest_first(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        """Return the next probe before the first step, as ``SearchStrategy.suggest``."""

    @abstractmethod
    def finalists(self, context: StageContext, results: Sequence[Observation]) -> list[Observation]:
        """Return those of a first search's judged results that are weighed."""

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
            return self.suggest_first(context, told, running)
        lrs = lrs_to_try(self.config, context, self.interval)
        asked = len(told) + len(running)
        if asked >= len(lrs):
            return None
        steps = reprobe_steps(self.config, context.stage)
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
            lr = chosen_lr(context, searched)
            probes = len(lrs_to_try(self.config, context, self.interval))
        elif searched:
            weighed = self.finalists(context, searched)
            lr = self.corrected(weighted_mean_lr(weighed, context.initial_loss, self.temperature))
            probes = self.first_probes(told)
        else:
            return None
        # An LR that diverged does so again; behind the probes stand those that were applied.
        diverged = [result for result in told if result.forecast is None]
        if sum(result.index >= probes for result in diverged) > MOST_RETREATS:
            return None
        return min([lr, *(0.5 * result.lr for result in diverged if result.lr <= lr)])

    def candidate(self, lr: float, steps: int, shape: Shape) -> Candidate:
        """Return a probe that is judged as the settings say."""
        return Candidate(lr, steps, 1 if self.config.forecaster is None else 0, shape)


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
