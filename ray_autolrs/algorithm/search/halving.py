"""Successive halving before the first step: many short probes, then fewer long ones.

Symbols
    η_j     learning rate (LR) of probe j
    n       steps of a short probe (``resolved_probe_steps``); T steps of the run
    m       the multiplier that is applied

    1. SHORT_PROBES LRs at log-midpoints of the interval, n steps each, warm-up n/4. With
       ``first_lr`` the interval lies around it, GUESS_FACTOR to each side.
    2. The best and its neighbours again, from the start, for LONG_FACTOR n steps.
    3. ln m = Σ w_j ln η_j - c ln(T / 2n), the weighted mean of the long probes
       (:func:`~ray_autolrs.algorithm.search.first_search.weighted_mean_lr`): short probes from
       initialisation favour LRs that are too large for T steps. c is HORIZON_CORRECTION, or half
       of it where weights are averaged.

Probes without averaging anneal: the long ones fall to zero over n/2 steps more, because the
validation loss at a high LR is mostly noise of the LR.

Source: our measurements (bench/NOTES.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ray_autolrs.algorithm.schedules.decays import Trapezoid
from ray_autolrs.algorithm.search.first_search import FirstSearch, anneal_steps
from ray_autolrs.algorithm.search.midpoints import log_midpoints
from ray_autolrs.algorithm.search.strategy import Candidate, Observation, StageContext
from ray_autolrs.config import AutoLRSConfig

SHORT_PROBES = 6
"""LRs in the first round. Ours: a factor of three between neighbours over three decades."""

LONG_PROBES = 3
"""LRs in the second round: the best of the first and a neighbour on each side."""

LONG_FACTOR = 2.5
"""Steps of a long probe, in those of a short one. Ours (measured)."""

TEMPERATURE = 0.03
"""Of the weighted mean, as a part of the loss that has been gained. Ours (measured)."""

HORIZON_CORRECTION = 0.2
"""Part of ln(T / 2n) by which an LR found at n steps is too large for T. Ours (measured)."""

GUESS_FACTOR = 16.0
"""How far ``first_lr`` may be off. Ours: twice the worst that it is tested with."""


class HalvingStrategy(FirstSearch):
    """``search="halving"``."""

    temperature = TEMPERATURE

    @property
    def interval(self) -> tuple[float, float]:
        guess = self.config.first_lr
        if guess is None:
            return self.config.lr_interval
        return guess / GUESS_FACTOR, guess * GUESS_FACTOR

    def suggest_first(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        asked = len(told) + len(running)
        spread = log_midpoints(*self.interval, SHORT_PROBES)
        if asked < SHORT_PROBES:
            return self._probe(spread[asked], self.config.resolved_probe_steps, is_long=False)
        if len(told) < SHORT_PROBES or asked >= SHORT_PROBES + LONG_PROBES:
            return None
        finalists = _neighbours(told[:SHORT_PROBES])
        if finalists is None:
            return None
        return self._probe(finalists[asked - SHORT_PROBES], _long_steps(self.config), is_long=True)

    def finalists(self, context: StageContext, results: Sequence[Observation]) -> list[Observation]:
        """Return the long probes, or the short ones if all of those diverged."""
        return [result for result in results if result.index >= SHORT_PROBES] or [*results]

    def first_probes(self, results: Sequence[Observation]) -> int:
        return SHORT_PROBES + LONG_PROBES

    def corrected(self, lr: float) -> float:
        if self.config.total_steps is None:
            return lr
        ratio = self.config.total_steps / (2 * self.config.resolved_probe_steps)
        part = 1.0 if self.config.averaging == "none" else 0.5
        return lr * math.exp(-part * HORIZON_CORRECTION * max(0.0, math.log(ratio)))

    def _probe(self, lr: float, steps: int, *, is_long: bool) -> Candidate:
        warmup = max(1, self.config.resolved_probe_steps // 4)
        decay = anneal_steps(self.config) if is_long else 0
        return self.candidate(lr, steps + decay, Trapezoid(0, steps + decay, warmup, decay))


def halving_steps(config: AutoLRSConfig) -> int:
    """Return the optimizer steps of the search before the first step."""
    long_steps = _long_steps(config) + anneal_steps(config)
    return SHORT_PROBES * config.resolved_probe_steps + LONG_PROBES * long_steps


def _long_steps(config: AutoLRSConfig) -> int:
    return round(LONG_FACTOR * config.resolved_probe_steps)


def _neighbours(told: Sequence[Observation]) -> list[float] | None:
    """Return the best LR of the first round and those beside it, in order; None if all diverged."""
    judged = [(r.forecast.loss, r.index) for r in told if r.forecast is not None]
    if not judged:
        return None
    best = min(judged)[1]
    first = min(max(best - 1, 0), len(told) - LONG_PROBES)
    return [told[place].lr for place in range(first, first + LONG_PROBES)]
