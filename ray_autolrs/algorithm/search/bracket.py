"""Bracketing before the first step: walk downhill until the best LR has a worse one on each side.

Symbols
    η_j   learning rate (LR) of place j on a grid, even in log LR, a factor √10 apart or less
    n     steps of a probe (``probe_steps``); T steps of the run
    Z_j   what the probe of η_j ended at: its validation loss, at the averaged weights
    β     how near to the average Schedule-Free takes its gradients
    ΔZ    loss gained: training loss before the first step, less the best probe's Z
    m     the LR that is applied

    1. The two LRs in the middle of the grid are tried, n steps each, in the first half of which
       the LR rises. With a guess the grid is that of the powers of √10, and the two are those
       around it: a wrong guess begins the walk elsewhere and ends it at the same LRs.
    2. Of neighbours the smaller LR is preferred, unless the larger one wins by MARGIN · ΔZ. While
       the preferred LR is the smallest or the largest that was tried, its neighbour on that side
       is tried: three or four probes where six spread over three decades would be six.
    3. ln m = Σ w_j ln η_j - c ln(T / n), the weighted mean of the preferred LR and those beside it
       with w_j ∝ exp(-(Z_j - min Z) / (TEMPERATURE ΔZ)): short probes from initialisation favour
       LRs that are too large for T steps. c is HORIZON_CORRECTION for noisy gradients, and less
       where a large batch makes them less so: times (1 - β) / 0.2.

The margin is for models that begin on a plateau. A masked language model first learns how often
tokens occur: every LR of two decades is as good at that, within 0.03 ΔZ, but at the upper ones it
learns nothing else. In other models an LR that is too high shows in the probes' losses.

A probe begins like a run in small, at an LR that rises for long. With a warm-up of a tenth the
best LR of a probe was off a run's by a factor of 1.64 (one standard deviation over six tasks,
around their mean), with half of it by 1.55, and it varied less. Without averaging, probes fall to
zero over n/2 steps more, because the validation loss at a high LR is mostly noise of the LR.

Source: our measurements (bench/NOTES.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from ray_autolrs.algorithm.field_checks import check, check_integer
from ray_autolrs.algorithm.forecast.forecaster import MIN_SERIES_POINTS
from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search.lr_walk import (
    foreseen_places,
    lr_grid,
    middle,
    next_place,
    preferred_place,
)
from ray_autolrs.algorithm.search.research import Research
from ray_autolrs.algorithm.search.strategy import (
    Candidate,
    Choice,
    Observation,
    RunFacts,
    SearchStrategy,
    StageContext,
)

TEMPERATURE = 0.05
"""Of the weighted mean, as a part of the loss that has been gained. Ours (measured)."""

HORIZON_CORRECTION = 0.16
"""Part of ln(T / n) by which an LR found at n steps is too large for T. Ours (measured)."""

MOST_LOOKAHEAD = 0.2
"""1 - β of small batches, with which the whole correction is made."""

USUAL_PROBES = 4
"""Probes of a search that is not unlucky: three or four where the grid has six LRs."""

LANES_OF_ONE_ROUND = 6
"""Lanes that try at once all that such a search may: two places to each side of the first two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bracket(SearchStrategy):
    """The default: tries LRs before the first step, downhill, until the best is bracketed.

    Raises:
        ValueError: a field is out of its range.
    """

    probe_steps: int | None = None
    """Steps of a probe. None is 2.2% of the run, at least 12 and at most 100, or 100 without an
    end. Ours (measured)."""

    research: Research | None = field(default=Research())
    """How a later stage is searched again where the LR looks too low. None never does."""

    accepts_guess: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_integer(self, "probe_steps", minimum=MIN_SERIES_POINTS, optional=True)
        holds = self.research is None or isinstance(self.research, Research)
        check(self, "research", holds, "must be None or a Research")

    def resolve(self, facts: RunFacts) -> Bracket:
        """Fill in the steps of a probe.

        >>> Bracket().resolve(RunFacts(total_steps=2300, lr=0.1)).probe_steps
        50
        """
        if self.probe_steps is not None:
            return self
        total = facts.total_steps
        return replace(self, probe_steps=100 if total is None else min(100, max(12, total // 46)))

    @property
    def reads_directness(self) -> bool:
        return self.research is not None

    @property
    def most_parallel_probes(self) -> int:
        return 2

    def expected_rounds(self, stage: int, lanes: int) -> int:
        if stage > 1:
            return 0  # A later one is searched where its LR looks too low: seldom.
        # Of USUAL_PROBES the first two run at once; further lanes run ahead on both sides.
        return {1: USUAL_PROBES, 2: 3}.get(lanes, 2 if lanes < LANES_OF_ONE_ROUND else 1)

    def planned_steps(self, facts: RunFacts, stages: Sequence[Stage]) -> int:
        """Return the steps of a search that is not unlucky; it may take a probe less.

        >>> facts = RunFacts(total_steps=2300, lr=0.1, is_averaged=True)
        >>> Bracket().resolve(facts).planned_steps(facts, ())
        200
        """
        return USUAL_PROBES * self._candidate_steps(facts)

    def suggest(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        if context.past or context.diverged:
            return self._suggest_again(context, told, running)
        grid = lr_grid(context.facts.lr)
        asked = len(told) + len(running)
        if asked < 2:
            return self._probe(grid[middle(grid) + asked], context.facts)
        if running:
            return None
        place = next_place(_losses(grid, context, told), context.initial_loss, len(grid))
        return None if place is None else self._probe(grid[place], context.facts)

    def foresee(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Sequence[Candidate]:
        if context.past or context.diverged or len(told) + len(running) < 2:
            return ()
        grid, facts = lr_grid(context.facts.lr), context.facts
        tried = {middle(grid), middle(grid) + 1, *_losses(grid, context, told)}
        if running and len(told) >= 2:
            place = next_place(_losses(grid, context, told), context.initial_loss, len(grid))
            tried |= {place} if place is not None else set()
        places = foreseen_places(tried, middle(grid), len(grid))
        return [self._probe(grid[place], facts) for place in places]

    def choose(
        self, context: StageContext, told: Sequence[Observation], rejected: Sequence[float]
    ) -> Choice | None:
        if context.diverged and self.research is not None:
            return self.research.choose_below(context, told)
        probe = None
        if context.past:
            lr = context.past[-1].peak_lr
            if told:
                assert self.research is not None, "nothing else searches a later stage"
                won = self.research.winner(context, told)
                lr, probe = told[won].peak_lr, won
        elif any(result.forecast is not None for result in told):
            lr = self._found_lr(context, told)
        else:
            return None
        # An LR that diverged does so again.
        diverged = [result.peak_lr for result in told if result.forecast is None] + [*rejected]
        lowered = min([lr, *(0.5 * other for other in diverged if other <= lr)])
        return Choice(lowered, probe if lowered == lr else None)

    @property
    def _steps(self) -> int:
        assert self.probe_steps is not None, "resolve the config first"
        return self.probe_steps

    def _suggest_again(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        if self.research is None:
            return None
        lr = context.facts.lr
        interval_end = lr[1] if isinstance(lr, tuple) else lr_grid(lr)[-1]
        return self.research.suggest(context, interval_end, told, running)

    def _probe(self, lr: float, facts: RunFacts) -> Candidate:
        steps = self._candidate_steps(facts)
        decay = steps - self._steps
        return Candidate(lr, steps, 1, WarmupStableDecay(0, steps, self._steps // 2, decay))

    def _candidate_steps(self, facts: RunFacts) -> int:
        return self._steps + (0 if facts.is_averaged else self._steps // 2)

    def _found_lr(self, context: StageContext, told: Sequence[Observation]) -> float:
        """Return m."""
        facts = context.facts
        grid = lr_grid(facts.lr)
        losses = _losses(grid, context, told)
        preferred = preferred_place(losses, context.initial_loss)
        # Only those beside it: so where the walk began has no say in the mean.
        weighed = {
            place: losses[place]
            for place in (preferred - 1, preferred, preferred + 1)
            if losses.get(place, math.inf) < math.inf
        }
        lr = weighted_mean_lr(
            [grid[place] for place in weighed], [*weighed.values()], context.initial_loss
        )
        if facts.total_steps is None:
            return lr
        noise = 1.0
        if facts.interpolation is not None:
            noise = min(1.0, (1 - facts.interpolation.momentum) / MOST_LOOKAHEAD)
        horizon = max(0.0, math.log(facts.total_steps / self._steps))
        return lr * math.exp(-noise * HORIZON_CORRECTION * horizon)


def weighted_mean_lr(lrs: Sequence[float], losses: Sequence[float], initial_loss: float) -> float:
    """Return exp(Σ w_j ln η_j).

    A mean, because the best of a few noisy losses is often a neighbour of the best LR.

    >>> round(weighted_mean_lr([0.1, 0.4], [1.0, 1.0], initial_loss=2.0), 6)
    0.2
    """
    smallest = min(losses)
    gained = initial_loss - smallest
    scale = TEMPERATURE * (gained if gained > 0 else max(abs(smallest), 1e-12))
    weights = [math.exp(-(loss - smallest) / scale) for loss in losses]
    weighed = math.fsum(weight * math.log(lr) for weight, lr in zip(weights, lrs, strict=True))
    return math.exp(weighed / math.fsum(weights))


def _losses(
    grid: Sequence[float], context: StageContext, told: Sequence[Observation]
) -> dict[int, float]:
    """Return the loss of each place that was tried, infinite where it diverged.

    Which place a probe was for follows from those before it, as it did when it was asked.
    """
    losses: dict[int, float] = {}
    for index, result in enumerate(told):
        place = (
            middle(grid) + index
            if index < 2
            else next_place(losses, context.initial_loss, len(grid))
        )
        assert place is not None, (told, "no such probe is asked for")
        losses[place] = math.inf if result.forecast is None else result.forecast.loss
    return losses
