"""Looks: stages that are searched again, up and down, where something speaks for another LR.

Symbols
    η     peak learning rate (LR) in use
    d     directness of the way of the weights so far (:mod:`ray_autolrs.algorithm.search.research`)
    Z     validation loss, at the averaged weights, at the end of a probe

A look is a handful of probes from a stage's snapshot, on the same batches: one at η, whose steps
the stage goes on from if it wins, and then one at factor · η, or at η / factor. One that wins over
the one before it is followed by the next in the same direction. A look is made

- at FIRST_LOOK, when the LR has risen: upwards if d > ``least_directness``, else downwards;
- at the stage after one that moved the LR, in the same direction;
- at the stage after one that did not go as foreseen
  (:mod:`ray_autolrs.algorithm.search.unforeseen`): upwards, and if that does not win, downwards;

and nowhere else, not after LAST_LOOK of the run, and not beyond ``budget``. A higher LR wins over
the one before as with :class:`~ray_autolrs.algorithm.search.research.Research`, without its
tolerance, a lower one by ``lower_margin``, because half of an LR that is right looks better for
long.

Source: ours (bench/NOTES.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_autolrs.algorithm.field_checks import check, check_fraction, is_number
from ray_autolrs.algorithm.search.recovery import LAST_LOOK, highest_lr
from ray_autolrs.algorithm.search.research import (
    RESEARCHED_STAGE,
    SMALLEST_FACTOR,
    Research,
    is_lower,
    looks_higher,
    probe_steps,
)
from ray_autolrs.algorithm.search.strategy import (
    Candidate,
    Observation,
    PastStage,
    StageContext,
)
from ray_autolrs.algorithm.search.unforeseen import is_unforeseen

FIRST_LOOK = RESEARCHED_STAGE

MOST_OTHERS = 2
"""Probes of a look beside the one at η."""

DIRECTNESS_FALL = 0.8
"""Part of what it was that the directness falls below where an LR has become too high."""

UP, DOWN = 1, -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks(Research):
    """How stages are searched again in both directions, during the whole run.

    Raises:
        ValueError: a field is out of its range.
    """

    tolerance: float = 0.0
    """Part of the loss, or of the loss gained if that is less, by which a higher LR may lie above
    the one before at the first look."""

    lower_margin: float = 0.02
    """Part of the loss, or of the loss gained if that is less, by which a lower LR must win. Ours
    (measured)."""

    budget: float = 0.15
    """Most probe steps of all looks, those that are gone on from left out, as a part of the run."""

    def __post_init__(self) -> None:
        # Not super(): slots make it another class than the one that a dataclass returns.
        Research.__post_init__(self)
        holds = is_number(self.lower_margin) and 0 <= self.lower_margin < 1
        check(self, "lower_margin", holds, "must lie in [0, 1)")
        check_fraction(self, "budget")

    def suggest(
        self,
        context: StageContext,
        interval_end: float,
        told: Sequence[Observation],
        running: Sequence[float],
    ) -> Candidate | None:
        if context.diverged or looks_higher(context):
            return Research.suggest(self, context, interval_end, told, running)
        asked = len(told) + len(running)
        if running and asked > 1:
            return None
        end = min(interval_end, highest_lr(context))
        lr = self._next_lr(context, end, told, asked)
        if asked == 0 and lr is not None:
            lr = context.past[-1].peak_lr  # There is one to compare it with.
        steps = probe_steps(context.facts.total_steps, context.stage)
        run_steps = context.facts.total_steps or 2 * context.stage.first_step
        if lr is None or _extra_steps(context) + max(1, asked) * steps > self.budget * run_steps:
            return None
        return Candidate(lr, steps, 1, context.facts.shape)

    def winner(self, context: StageContext, results: Sequence[Observation]) -> int:
        if context.diverged or looks_higher(context):
            return Research.winner(self, context, results)
        won = 0
        is_first = context.stage.number == FIRST_LOOK
        of_higher = -self.tolerance if is_first else self.hysteresis
        for place in range(1, len(results)):
            before, other = results[won].forecast, results[place].forecast
            if before is None:
                break
            direction = _direction(results[won].peak_lr, results[place].peak_lr)
            margin = of_higher if direction == UP else self.lower_margin
            if other is not None and is_lower(
                other.loss, before.loss, context.initial_loss, margin
            ):
                won = place
        return won

    def _next_lr(
        self, context: StageContext, end: float, told: Sequence[Observation], asked: int
    ) -> float | None:
        """Return the other LR to try after those told; while η runs, or is to, the first one."""
        untried = self._directions(context)
        if asked > MOST_OTHERS or not untried:
            return None
        now, is_won = context.past[-1].peak_lr, False
        if asked > 1:
            won = self.winner(context, told)
            tried = [_direction(now, other.peak_lr) for other in told[1:]]
            is_won = won == len(told) - 1
            if is_won:
                now, untried = told[won].peak_lr, (tried[-1],)
            else:
                untried = tuple(one for one in untried if one not in tried and won == 0)
        for direction in untried:
            # Twice as far in the log at each: ×2, then ×4.
            factor = self.factor ** (2 if is_won else 1)
            lr = min(factor * now, end) if direction == UP else now / factor
            if direction == DOWN or lr >= SMALLEST_FACTOR * now:
                return lr
        return None

    def _directions(self, context: StageContext) -> tuple[int, ...]:
        """Return where a stage looks first and, if that does not win, second; () for no look."""
        past, stage, total = context.past, context.stage, context.facts.total_steps
        if stage.number < FIRST_LOOK or (total and stage.first_step > LAST_LOOK * total):
            return ()
        latest, before = past[-1], past[-2]
        if stage.number == FIRST_LOOK:
            if latest.directness is None:
                return ()
            return (UP,) if latest.directness > self.least_directness else (DOWN,)
        if latest.peak_lr != before.peak_lr:
            return (_direction(before.peak_lr, latest.peak_lr),)
        if latest.results:
            return ()
        if is_unforeseen(before.training_losses, latest.training_losses):
            return (DOWN, UP) if _has_fallen(before, latest) else (UP, DOWN)
        return ()


def _has_fallen(before: PastStage, latest: PastStage) -> bool:
    if before.directness is None or latest.directness is None:
        return False
    return latest.directness < DIRECTNESS_FALL * before.directness


def _direction(before: float, lr: float) -> int:
    return UP if lr > before else DOWN


def _extra_steps(context: StageContext) -> int:
    """Return the probe steps of earlier looks, without those at the LR in use."""
    total = context.facts.total_steps
    return sum(
        (len(done.results) - 1) * probe_steps(total, done.stage)
        for done in context.past[1:]
        if done.results
    )
