"""Search before the first step by successive halving, and re-search where it was in doubt.

Symbols
    η       learning rate (LR); η_j of probe j
    n       steps of a short probe (``resolved_probe_steps``); T steps of the run
    Z_j     what probe j ended at: its validation loss, at the averaged weights
    ΔZ      training loss before the first step, less the smallest Z
    w_j     weight of a long probe, exp(-(Z_j - min Z) / (TEMPERATURE ΔZ)) / sum of these

First stage
    1. SHORT_PROBES LRs at log-midpoints of the interval, n steps each, warm-up n/4. With
       ``first_lr`` the interval lies around it, GUESS_FACTOR to each side.
    2. The best and its neighbours again, from the start, for LONG_FACTOR n steps.
    3. ln m = Σ w_j ln η_j - c ln(T / 2n): short probes from initialisation favour LRs that are
       too large for T steps. c is HORIZON_CORRECTION, or half of it where weights are averaged.

Probes without averaging anneal: the long ones fall to zero over n/2 steps more, because the
validation loss at a high LR is mostly noise of the LR.

Later stages are not searched, unless the multiplier is in doubt: the best LR of the first search
was the smallest or the largest that it tried, or the last re-search moved it. Then REGION times
the multiplier is tried, within the interval, and the weighted mean is taken if it lies further
away than HYSTERESIS.

Source: our measurements (bench/NOTES.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ray_autolrs.algorithm.decays import Trapezoid
from ray_autolrs.algorithm.forecast import Forecast
from ray_autolrs.algorithm.midpoints import log_midpoints
from ray_autolrs.algorithm.run_shape import run_shape
from ray_autolrs.algorithm.stage_probes import training_forecaster
from ray_autolrs.algorithm.strategy import (
    MOST_RETREATS,
    Candidate,
    Observation,
    PastStage,
    StageContext,
)
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

REGION = (1 / 3, 1.0, 3.0)
"""Factors of the multiplier that a re-search tries. Ours: about the distance of first LRs."""

REGION_PROBE_FRACTION = 0.1
"""Steps of a re-search's probe as a fraction of its stage. Source: the paper's τ′/τ."""

HYSTERESIS = 1.5
"""A re-search changes the multiplier by at least this factor, or not at all. Ours."""

LAST_RESEARCHED_STAGE = 4
"""No stage after it is searched: too little of the run is left to gain by it."""


@dataclass(frozen=True)
class HalvingStrategy:
    """``search="halving"``."""

    config: AutoLRSConfig

    def suggest(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        asked = len(told) + len(running)
        if context.past:
            lrs = self._region(context)
            return self._region_probe(context, lrs[asked]) if asked < len(lrs) else None
        spread = log_midpoints(*self._interval, SHORT_PROBES)
        if asked < SHORT_PROBES:
            return self._first_probe(spread[asked], self.config.resolved_probe_steps, is_long=False)
        if len(told) < SHORT_PROBES or asked >= SHORT_PROBES + LONG_PROBES:
            return None
        finalists = _neighbours(told[:SHORT_PROBES])
        if finalists is None:
            return None
        steps = _long_steps(self.config)
        return self._first_probe(finalists[asked - SHORT_PROBES], steps, is_long=True)

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
            lr = self._corrected(weighted_mean_lr(_finalists(searched), context.initial_loss))
        else:
            return None
        # An LR that diverged does so again; behind the probes stand those that were applied.
        diverged = [result for result in told if result.forecast is None]
        if sum(result.index >= self._probes(context) for result in diverged) > MOST_RETREATS:
            return None
        return min([lr, *(0.5 * result.lr for result in diverged if result.lr <= lr)])

    def _probes(self, context: StageContext) -> int:
        return len(self._region(context)) if context.past else SHORT_PROBES + LONG_PROBES

    @property
    def _interval(self) -> tuple[float, float]:
        guess = self.config.first_lr
        if guess is None:
            return self.config.lr_interval
        return guess / GUESS_FACTOR, guess * GUESS_FACTOR

    def _first_probe(self, lr: float, steps: int, *, is_long: bool) -> Candidate:
        warmup = max(1, self.config.resolved_probe_steps // 4)
        decay = _anneal_steps(self.config) if is_long else 0
        shape = Trapezoid(0, steps + decay, warmup, decay)
        return Candidate(lr, steps + decay, 1 if self.config.forecaster is None else 0, shape)

    def _region_probe(self, context: StageContext, lr: float) -> Candidate:
        steps = max(
            self.config.resolved_probe_steps, round(REGION_PROBE_FRACTION * context.stage.steps)
        )
        evals = 1 if self.config.forecaster is None else 0
        return Candidate(lr, steps, evals, run_shape(self.config))

    def _corrected(self, lr: float) -> float:
        if self.config.total_steps is None:
            return lr
        ratio = self.config.total_steps / (2 * self.config.resolved_probe_steps)
        part = 1.0 if self.config.averaging == "none" else 0.5
        return lr * math.exp(-part * HORIZON_CORRECTION * max(0.0, math.log(ratio)))

    def _region(self, context: StageContext) -> list[float]:
        """Return the LRs to try at a later stage; none where the multiplier is not in doubt."""
        past = context.past
        if len(past) >= LAST_RESEARCHED_STAGE or not _is_in_doubt(past):
            return []
        low, high = self._interval
        lrs = [min(max(factor * past[-1].lr, low), high) for factor in REGION]
        return sorted(set(lrs))

    def _moved(self, context: StageContext, searched: Sequence[Observation]) -> float:
        now = context.past[-1].lr
        if not searched:
            return now
        wanted = weighted_mean_lr(searched, context.initial_loss)
        return wanted if abs(math.log(wanted / now)) > math.log(HYSTERESIS) else now


def _is_in_doubt(past: Sequence[PastStage]) -> bool:
    last = past[-1]
    if len(past) > 1:
        was_searched = any(result.forecast is not None for result in last.results)
        return was_searched and last.lr != past[-2].lr
    judged = [(r.forecast.loss, r.lr) for r in _finalists(last.results) if r.forecast is not None]
    tried = [result.lr for result in last.results]
    return bool(judged) and min(judged)[1] in (min(tried), max(tried))


def _finalists(results: Sequence[Observation]) -> list[Observation]:
    """Return a first search's judged long probes, or the short ones if all of those diverged."""
    judged = [result for result in results if result.forecast is not None]
    return [result for result in judged if result.index >= SHORT_PROBES] or judged


def first_search_steps(config: AutoLRSConfig) -> int:
    """Return the optimizer steps of the search before the first step."""
    long_steps = _long_steps(config) + _anneal_steps(config)
    return SHORT_PROBES * config.resolved_probe_steps + LONG_PROBES * long_steps


def _long_steps(config: AutoLRSConfig) -> int:
    return round(LONG_FACTOR * config.resolved_probe_steps)


def _anneal_steps(config: AutoLRSConfig) -> int:
    return max(1, config.resolved_probe_steps // 2) if config.averaging == "none" else 0


def weighted_mean_lr(results: Sequence[Observation], initial_loss: float) -> float:
    """Return exp(Σ w_j ln η_j) over judged probes.

    A mean, because the best of a few noisy losses is often a neighbour of the best LR.

    >>> near = [Observation(0, 0.1, Forecast(1.0, 0.0)), Observation(1, 0.4, Forecast(1.0, 0.0))]
    >>> round(weighted_mean_lr(near, initial_loss=2.0), 6)
    0.2
    """
    losses = [result.forecast.loss for result in results if result.forecast is not None]
    smallest = min(losses)
    gained = initial_loss - smallest
    scale = TEMPERATURE * (gained if gained > 0 else max(abs(smallest), 1e-12))
    weights = [math.exp(-(loss - smallest) / scale) for loss in losses]
    logs = [math.log(result.lr) for result in results if result.forecast is not None]
    return math.exp(math.fsum(map(math.prod, zip(weights, logs, strict=True))) / math.fsum(weights))


def _neighbours(told: Sequence[Observation]) -> list[float] | None:
    """Return the best LR of the first round and those beside it, in order; None if all diverged."""
    judged = [(r.forecast.loss, r.index) for r in told if r.forecast is not None]
    if not judged:
        return None
    best = min(judged)[1]
    first = min(max(best - 1, 0), len(told) - LONG_PROBES)
    return [told[place].lr for place in range(first, first + LONG_PROBES)]
