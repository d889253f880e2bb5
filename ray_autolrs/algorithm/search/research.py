"""Re-search: whether the LR of a run under way is worth searching again, and what is tried.

Symbols
    η     peak learning rate (LR) in use
    f     ``factor`` or 1 / ``factor``
    G_f   what the run's end gains if the rest of it is at f·η: forecast, with its error σ_f, from
          all losses so far (:mod:`ray_autolrs.algorithm.forecast.spectral`)
    C     what the probe's steps would gain if they were applied instead: forecast likewise

At the start of RESEARCHED_STAGE the f with the largest G_f - σ_f is tried, if that is more than C,
and at the next ones as long as η moves. Two probes begin from the stage's snapshot: one at η,
which the stage goes on from if it wins, so that it costs nothing, and one at f·η. The second wins
if it ends lower by ``hysteresis`` of the loss gained since the start.

An LR that was lowered because another diverged is tried against a higher one, too, without a
forecast (:mod:`ray_autolrs.algorithm.search.recovery`).

The forecast misses some wrong LRs and doubts some right ones; the probes then settle it. Probes of
a twentieth of the run, judged at the averaged weights, never chose an LR that ended worse in our
runs (bench/NOTES.md). The forecast takes 0.2 ms for each step of the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ray_autolrs.algorithm.field_checks import check, is_number
from ray_autolrs.algorithm.forecast.loss_curves import LossCurve
from ray_autolrs.algorithm.forecast.spectral import TRUSTED_POINTS, fit_spectral
from ray_autolrs.algorithm.schedules.shapes import Shape
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search.recovery import (
    LENGTHENED,
    highest_lr,
    is_time_to_look,
    lrs_below,
    sound,
)
from ray_autolrs.algorithm.search.strategy import (
    Candidate,
    Choice,
    Observation,
    PastStage,
    RunFacts,
    StageContext,
)

RESEARCHED_STAGE = 3
"""Begins at 18% of a run, when the LR has risen. A look at the next one, at 42%, tried other LRs
beside good ones more often, and where this one had tried none it found none."""

LAST_RESEARCHED_STAGE = 5
"""Begins at 67%; after it too little is left to gain."""

SMALLEST_FACTOR = 1.5
"""The grid's end may be nearer than ``factor``; what is nearer than this is not tried."""

MOST_PROBE_STEPS = 120
"""Most steps of a probe, as long as that is not less than LEAST_PROBE_FRACTION of the run."""

PROBE_FRACTION = 0.05
LEAST_PROBE_FRACTION = 0.025


@dataclass(frozen=True, kw_only=True, slots=True)
class Research:
    """How stages after the first search are searched again.

    Raises:
        ValueError: a field is out of its range.
    """

    factor: float = 3.0
    """How far an LR is tried from the one in use. Ours: about the distance of the first LRs."""

    hysteresis: float = 0.002
    """Part of the loss gained so far by which another LR must win. Ours."""

    def __post_init__(self) -> None:
        rule = f"must be a number of at least {SMALLEST_FACTOR}"
        holds = is_number(self.factor) and self.factor >= SMALLEST_FACTOR
        check(self, "factor", holds, rule)
        holds = is_number(self.hysteresis) and 0 <= self.hysteresis < 1
        check(self, "hysteresis", holds, "must lie in [0, 1)")

    def suggest(
        self,
        context: StageContext,
        interval: tuple[float, float],
        told: Sequence[Observation],
        asked: int,
    ) -> Candidate | None:
        """Return the next probe of a stage that is not the first, or that diverged; or None.

        Args:
            context: the stage.
            interval: the smallest and the largest LR that may be tried.
            told: the stage's observations.
            asked: probes of the stage that were asked before.
        """
        steps, before = probe_steps(context.facts.total_steps, context.stage), 0
        if context.diverged:
            latest = context.diverged[-1]
            # A shorter one would not show whether a lower LR gets past that place.
            steps = min(context.stage.steps, max(steps, LENGTHENED * latest.steps))
            before = latest.probes
            lrs = lrs_below(context, told, self.factor)
        else:
            lrs = self.lrs_to_try(context, interval)
        if asked - before >= len(lrs):
            return None
        return Candidate(lrs[asked - before], steps, 1, context.facts.shape)

    def lrs_to_try(self, context: StageContext, interval: tuple[float, float]) -> tuple[float, ...]:
        """Return the LR in use and the one to try beside it; none where it is not worth a probe."""
        stage, facts = context.stage, context.facts
        now, highest = context.past[-1].peak_lr, highest_lr(context)
        if _looks_higher(context):
            return now, min(highest, self.factor * now)
        if not RESEARCHED_STAGE <= stage.number <= LAST_RESEARCHED_STAGE:
            return ()
        if stage.number > RESEARCHED_STAGE and now == context.past[-2].peak_lr:
            return ()
        interval = interval[0], min(interval[1], highest)
        other = _other_lr(self.factor, interval, facts, context.past, stage)
        return () if other is None else (now, other)

    def choose_below(self, context: StageContext, told: Sequence[Observation]) -> Choice | None:
        """Return what a stage whose LR diverged goes on with; None if no probe since was sound."""
        since = sound(context, told[context.diverged[-1].probes :])
        if not since:
            return None
        won = since[self.winner(context, since)]
        return Choice(won.peak_lr, won.index)

    def winner(self, context: StageContext, results: Sequence[Observation]) -> int:
        """Return the place of the LR to go on with: 1, the other one, if it won clearly.

        A higher one need not win clearly where the LR in use is lower because another diverged.
        """
        now, *others = [result.forecast for result in results]
        if now is None or not others or others[0] is None:
            return 0
        gained = max(0.0, context.initial_loss - now.loss)
        least = 0.0 if _looks_higher(context) else self.hysteresis * gained
        return int(now.loss - others[0].loss > least)


def probe_steps(total_steps: int | None, stage: Stage) -> int:
    """Return the steps of a probe at a stage that is not the first.

    >>> stage = Stage(3, first_step=180, steps=600)
    >>> [probe_steps(total, stage) for total in (1000, 2300, 20_000)]
    [50, 115, 500]
    """
    run_steps = total_steps or 2 * stage.first_step
    steps = min(round(PROBE_FRACTION * run_steps), MOST_PROBE_STEPS)
    return min(stage.steps, max(1, steps, round(LEAST_PROBE_FRACTION * run_steps)))


def _looks_higher(context: StageContext) -> bool:
    """Return whether an LR that was lowered by a divergence is tried against a higher one."""
    if context.diverged or not is_time_to_look(context):
        return False
    return highest_lr(context) >= SMALLEST_FACTOR * context.past[-1].peak_lr


@lru_cache(maxsize=8)
def _other_lr(
    factor: float,
    interval: tuple[float, float],
    facts: RunFacts,
    past: tuple[PastStage, ...],
    stage: Stage,
) -> float | None:
    """Return the LR that promises more than the forecast's error and a probe's steps."""
    if stage.first_step < TRUSTED_POINTS:
        return None
    shape = facts.shape
    # Without a known end, as much again is looked forward to.
    end = facts.total_steps or 2 * stage.first_step
    model = fit_spectral(_curves(shape, past), facts.interpolation, end)
    now = past[-1].peak_lr
    factors = [shape.factor(step) for step in range(stage.first_step, end)]
    low, high = interval
    bounded = [min(max(lr, low), high) for lr in (now / factor, now * factor)]
    others = [lr for lr in bounded if abs(math.log(lr / now)) >= math.log(SMALLEST_FACTOR)]
    going_on = [now * part for part in factors]
    # Where a probe would take all that is left, there is nothing to say what it costs.
    shortened = going_on[probe_steps(facts.total_steps, stage) :] or going_on
    options = [shortened, *([lr * part for part in factors] for lr in others)]
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
        curves.append(_curve(done.peak_lr, shape, done.training_losses, first, is_probe=False))
        curves += [
            _curve(result.peak_lr, result.shape, result.training_losses, first, is_probe=True)
            for result in done.results
            if result.training_losses
        ]
    return curves


def _curve(
    lr: float, shape: Shape, losses: tuple[float, ...], first: int, *, is_probe: bool
) -> LossCurve:
    lrs = tuple(lr * shape.factor(step) for step in range(first, first + len(losses)))
    return LossCurve(lrs, losses, first, is_probe)
