"""Re-search: whether the LR of a run under way is too low, and how far it is raised.

Symbols
    η     peak learning rate (LR) in use
    d     directness of the way of the weights so far, |z_n - z_0| / √(Σ |z_t - z_(t-1)|²)
          (:mod:`ray_autolrs.training.weight_path`): 1 for a random walk
    Z_k   validation loss, at the averaged weights, at the end of a probe at factor^k · η
    L_0   training loss before the first step

Short probes from the first step prefer LRs that are too low where a model first has to leave what
it knows (fine-tuning), where its first steps are its most fragile ones, and where it begins on a
plateau. Their loss does not tell it, but the way of the weights does: at an LR that suits the run
they begin to wander, and d is below 1 by the end of a warm-up of a fifth of the run; at one that
is too low they still go straight.

So at the start of RESEARCHED_STAGE, where d > ``least_directness``, probes begin from the stage's
snapshot: one at η, which the stage goes on from if it wins, so that it costs nothing, and one at
factor · η. A raise first costs and then gains, so that a higher LR wins unless its Z lies above
that of the one before by ``tolerance`` times the smaller of that Z and of what has been gained,
L_0 - Z; while it wins, the next higher one is tried. At the next stages, as long as η moves, the
same is done, but there a higher LR must lie below by ``hysteresis`` times as much. An LR that was
lowered because another diverged is tried against a higher one whatever d is
(:mod:`ray_autolrs.algorithm.search.recovery`).

There is no way down: LRs too high by 4 have never been won back by a lower one in our runs, and
half an LR that is right looks better for long (bench/NOTES.md).

Source: ours, from runs of 39 tasks that went on with half, the same and twice the LR
(``bench.lr_forks``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_autolrs.algorithm.field_checks import check, is_number
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search.recovery import (
    LENGTHENED,
    RECOVERY_FACTOR,
    highest_lr,
    is_time_to_look,
    lrs_below,
    sound,
)
from ray_autolrs.algorithm.search.strategy import Candidate, Choice, Observation, StageContext

RESEARCHED_STAGE = 3
"""Begins at 18% of a run, when the LR has risen."""

LAST_RESEARCHED_STAGE = 5
"""Begins at 67%; after it too little is left to gain."""

MOST_RAISES = 3
"""In one stage: each costs a probe."""

SMALLEST_FACTOR = 1.5
"""The interval's end may be nearer than ``factor``; what is nearer than this is not tried."""

MOST_PROBE_STEPS = 115
"""Most steps of a probe, as long as that is not less than LEAST_PROBE_FRACTION of the run. Those of
100 of 2300 steps are as good as longer ones, and better than 50 (``bench.raise_rule``)."""

SAMPLE_FACTOR = 3
"""Validation samples of a probe, as a multiple of those of the first search's, which are a third
as long at 2300 steps: what two LRs differ by, 1% to 5% of the loss, is one to three standard
errors on 512 samples (``bench.lr_forks``'s tasks). Ours."""

PROBE_FRACTION = 0.05
LEAST_PROBE_FRACTION = 0.025


@dataclass(frozen=True, kw_only=True, slots=True)
class Research:
    """How stages after the first search are searched again.

    Raises:
        ValueError: a field is out of its range.
    """

    factor: float = 2.0
    """How far a higher LR is from the one before. Ours (measured)."""

    least_directness: float = 1.2
    """How direct the way of the weights must have been for a higher LR to be tried; the square
    root of the steps is the most that it can be. 0 always tries one. Ours (measured)."""

    tolerance: float = 0.02
    """Part of the loss, or of the loss gained if that is less, by which a higher LR may lie above
    the one before where LRs are tried again for the first time. Ours (measured)."""

    hysteresis: float = 0.002
    """Likewise, by which a higher LR must lie below at the stages after that. Ours."""

    def __post_init__(self) -> None:
        rule = f"must be a number of at least {SMALLEST_FACTOR}"
        holds = is_number(self.factor) and self.factor >= SMALLEST_FACTOR
        check(self, "factor", holds, rule)
        holds = is_number(self.least_directness) and self.least_directness >= 0
        check(self, "least_directness", holds, "must be finite and not negative")
        for name in ("tolerance", "hysteresis"):
            value = getattr(self, name)
            check(self, name, is_number(value) and 0 <= value < 1, "must lie in [0, 1)")

    def suggest(
        self,
        context: StageContext,
        interval_end: float,
        told: Sequence[Observation],
        running: Sequence[float],
    ) -> Candidate | None:
        """Return the next probe of a stage that is not the first, or that diverged; or None.

        Args:
            context: the stage.
            interval_end: the largest LR that may be tried.
            told: the stage's observations, in the order asked.
            running: LRs whose results are not known yet.
        """
        asked = len(told) + len(running)
        steps = probe_steps(context.facts.total_steps, context.stage)
        if context.diverged:
            latest = context.diverged[-1]
            # A shorter one would not show whether a lower LR gets past that place.
            steps = min(context.stage.steps, max(steps, LENGTHENED * latest.steps))
            asked -= latest.probes
            lrs = lrs_below(context, told)
        else:
            lrs = self.lrs_to_try(context, interval_end)
            if asked >= 2 and (running or self.winner(context, told) < asked - 1):
                return None
        if asked >= len(lrs):
            return None
        shape = context.facts.shape
        return Candidate(lrs[asked], steps, 1, shape, sample_factor=SAMPLE_FACTOR)

    def lrs_to_try(self, context: StageContext, interval_end: float) -> tuple[float, ...]:
        """Return the LR in use and the higher ones to try; none where it is not worth a probe."""
        stage, past = context.stage, context.past
        end = highest_lr(context)
        if looks_higher(context):
            return past[-1].peak_lr, min(end, RECOVERY_FACTOR * past[-1].peak_lr)
        if not RESEARCHED_STAGE <= stage.number <= LAST_RESEARCHED_STAGE:
            return ()
        if stage.number > RESEARCHED_STAGE and past[-1].peak_lr == past[-2].peak_lr:
            return ()
        directness = past[-1].directness
        if directness is None or directness <= self.least_directness:
            return ()
        lrs = [past[-1].peak_lr]
        while len(lrs) <= MOST_RAISES:
            higher = min(self.factor * lrs[-1], interval_end, end)
            if higher < SMALLEST_FACTOR * lrs[-1]:
                break
            lrs.append(higher)
        return tuple(lrs) if len(lrs) > 1 else ()

    def choose_below(self, context: StageContext, told: Sequence[Observation]) -> Choice | None:
        """Return what a stage whose LR diverged goes on with; None if no probe since was sound."""
        since = sound(context, told[context.diverged[-1].probes :])
        if not since:
            return None
        won = since[self.winner(context, since)]
        return Choice(won.peak_lr, won.index)

    def winner(self, context: StageContext, results: Sequence[Observation]) -> int:
        """Return the place of the LR to go on with: the last that won over the one before.

        One need not win clearly where the LR in use is lower because another diverged.
        """
        won = 0
        is_first = context.stage.number == RESEARCHED_STAGE and not context.diverged
        margin = -self.tolerance if is_first else self.hysteresis
        if looks_higher(context):
            margin = 0.0
        for place in range(1, len(results)):
            before, other = results[place - 1].forecast, results[place].forecast
            if before is None or other is None:
                break
            if not is_lower(other.loss, before.loss, context.initial_loss, margin):
                break
            won = place
        return won


def is_lower(loss: float, before: float, initial_loss: float, margin: float) -> bool:
    """Return whether a loss is lower than another by enough.

    Args:
        loss: what is to be lower.
        before: than this one.
        initial_loss: of the run.
        margin: part of the smaller of ``before`` and of what it has gained, by which it must be
            lower; below zero, by which it may be higher.
    """
    gained = max(0.0, initial_loss - before)
    return before - loss > margin * min(gained, abs(before))


def probe_steps(total_steps: int | None, stage: Stage) -> int:
    """Return the steps of a probe at a stage that is not the first.

    >>> stage = Stage(3, first_step=180, steps=600)
    >>> [probe_steps(total, stage) for total in (1000, 2300, 20_000)]
    [50, 115, 500]
    """
    run_steps = total_steps or 2 * stage.first_step
    steps = min(round(PROBE_FRACTION * run_steps), MOST_PROBE_STEPS)
    return min(stage.steps, max(1, steps, round(LEAST_PROBE_FRACTION * run_steps)))


def looks_higher(context: StageContext) -> bool:
    """Return whether an LR that was lowered by a divergence is tried against a higher one."""
    if context.diverged or not is_time_to_look(context):
        return False
    return highest_lr(context) >= SMALLEST_FACTOR * context.past[-1].peak_lr
