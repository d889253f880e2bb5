"""Insurance: whether the LR of a run under way is worth searching again, and what is tried.

Symbols
    η     learning rate (LR) multiplier in use
    f     FACTOR or 1 / FACTOR
    G_f   what the run's end gains if the rest of it is at f·η: forecast, with its error σ_f, from
          all losses so far (:mod:`ray_autolrs.algorithm.forecast.spectral`)
    C     what the probe's steps would gain if they were applied instead: forecast likewise

At the start of RESEARCHED_STAGE the f with the largest G_f - σ_f is tried, if that is more than C,
and at the next ones as long as η moves.
Two probes begin from the stage's snapshot: one at η, which the stage goes on from if it wins, so
that it costs nothing, and one at f·η. The second wins if it ends lower by HYSTERESIS of the loss
gained since the start.

The forecast misses some wrong LRs and doubts some right ones; the probes then settle it. Probes of
a twentieth of the run, judged at the averaged weights, never chose an LR that ended worse in our
runs (bench/NOTES.md). The forecast takes 0.2 ms for each step of the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ray_autolrs.algorithm.forecast.loss_curves import LossCurve
from ray_autolrs.algorithm.forecast.noisy_quadratic import Averaging
from ray_autolrs.algorithm.forecast.spectral import TRUSTED_POINTS, fit_spectral
from ray_autolrs.algorithm.schedules.run_shape import run_shape
from ray_autolrs.algorithm.schedules.shapes import Shape
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search.strategy import Observation, PastStage, StageContext
from ray_autolrs.config import MOST_LOOKAHEAD, AutoLRSConfig

RESEARCHED_STAGE = 3
"""Begins at 18% of a run, when the LR has risen. A look at the next one, at 42%, tried other LRs
beside good ones more often, and where this one had tried none it found none."""

LAST_RESEARCHED_STAGE = 5
"""Begins at 67%; after it too little is left to gain."""

FACTOR = 3.0
"""How far an LR is tried from the one in use. Ours: about the distance of the first LRs."""

SMALLEST_FACTOR = 1.5
"""The interval's end may be nearer than FACTOR; what is nearer than this is not tried."""

HYSTERESIS = 0.002
"""Part of the loss gained so far by which another LR must win. Ours."""

MOST_PROBE_STEPS = 120
"""Most steps of a probe, as long as that is not less than LEAST_PROBE_FRACTION of the run."""

PROBE_FRACTION = 0.05
LEAST_PROBE_FRACTION = 0.025


@dataclass(frozen=True, slots=True)
class _Run:
    """What the forecast depends on; it can be hashed."""

    shape: Shape
    averaging: Averaging | None
    end: int
    probe_steps: int
    interval: tuple[float, float]


def lrs_to_try(
    config: AutoLRSConfig, context: StageContext, interval: tuple[float, float]
) -> tuple[float, ...]:
    """Return the LR in use and the one to try beside it; none where it is not worth a probe.

    Args:
        config: the run's settings.
        context: a stage that is not the first.
        interval: the smallest and the largest LR that may be tried.
    """
    stage = context.stage
    if not RESEARCHED_STAGE <= stage.number <= LAST_RESEARCHED_STAGE:
        return ()
    if stage.number > RESEARCHED_STAGE and context.past[-1].lr == context.past[-2].lr:
        return ()
    # Without a known end, as much again is looked forward to.
    end = config.total_steps or 2 * stage.first_step
    steps = reprobe_steps(config, stage)
    run = _Run(run_shape(config), _averaging(config), end, steps, interval)
    other = _other_lr(run, context.past, stage)
    return () if other is None else (context.past[-1].lr, other)


def reprobe_steps(config: AutoLRSConfig, stage: Stage) -> int:
    """Return the steps of a probe at a stage that is not the first.

    >>> from ray_autolrs.algorithm.schedules.stage_plan import plan_stages
    >>> lengths = (1000, 2300, 20_000)
    >>> runs = [AutoLRSConfig(total_steps=steps, lr_min=1e-3, lr_max=1.0) for steps in lengths]
    >>> [reprobe_steps(config, plan_stages(config)[2]) for config in runs]
    [50, 115, 500]
    """
    run_steps = config.total_steps or 2 * stage.first_step
    steps = min(round(PROBE_FRACTION * run_steps), MOST_PROBE_STEPS)
    return min(stage.steps, max(1, steps, round(LEAST_PROBE_FRACTION * run_steps)))


def chosen_lr(context: StageContext, results: Sequence[Observation]) -> float:
    """Return the LR to go on with: the other one that was tried, if it won clearly."""
    now = context.past[-1].lr
    losses = {result.lr: result.forecast.loss for result in results if result.forecast is not None}
    other = min(losses, key=losses.__getitem__, default=now)
    if now not in losses or other == now:
        return now
    gained = max(0.0, context.initial_loss - losses[now])
    return other if losses[now] - losses[other] > HYSTERESIS * gained else now


@lru_cache(maxsize=8)
def _other_lr(run: _Run, past: tuple[PastStage, ...], stage: Stage) -> float | None:
    """Return the LR that promises more than the forecast's error and a probe's steps."""
    if stage.first_step < TRUSTED_POINTS:
        return None
    model = fit_spectral(_curves(run.shape, past), run.averaging, run.end)
    now = past[-1].lr
    factors = [run.shape.factor(step) for step in range(stage.first_step, run.end)]
    low, high = run.interval
    bounded = [min(max(lr, low), high) for lr in (now / FACTOR, now * FACTOR)]
    others = [lr for lr in bounded if abs(math.log(lr / now)) >= math.log(SMALLEST_FACTOR)]
    going_on = [now * factor for factor in factors]
    # Where a probe would take all that is left, there is nothing to say what it costs.
    shortened = going_on[run.probe_steps :] or going_on
    options = [shortened, *([lr * factor for factor in factors] for lr in others)]
    shorter, *gains = model.gains(options, instead_of=going_on)
    cost = max(0.0, -shorter.loss)
    promises = {
        lr: gain.loss - gain.std
        for lr, gain in zip(others, gains, strict=True)
        if gain.trusted and gain.loss - gain.std > cost
    }
    return max(promises, key=promises.__getitem__, default=None)


def _curves(shape: Shape, past: Sequence[PastStage]) -> list[LossCurve]:
    curves: list[LossCurve] = []
    for done in past:
        first = done.stage.first_step
        curves.append(_curve(done.lr, shape, done.losses, first, is_probe=False))
        curves += [
            _curve(result.lr, result.shape, result.losses, first, is_probe=True)
            for result in done.results
            if result.losses
        ]
    return curves


def _curve(
    lr: float, shape: Shape, losses: tuple[float, ...], first: int, *, is_probe: bool
) -> LossCurve:
    lrs = tuple(lr * shape.factor(step) for step in range(first, first + len(losses)))
    return LossCurve(lrs, losses, first, is_probe)


def _averaging(config: AutoLRSConfig) -> Averaging | None:
    """Return what the model knows of the average: Schedule-Free's, which changes the training."""
    if config.averaging != "schedule_free":
        return None
    momentum = config.averaging_momentum
    return Averaging(1 - MOST_LOOKAHEAD if momentum is None else momentum, config.averaging_power)
