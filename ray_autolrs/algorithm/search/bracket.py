"""Bracketing before the first step: walk downhill until the best LR has a worse one on each side.

Symbols
    η_j   learning rate (LR) of rung j: rungs lie evenly in log LR, a factor √10 apart or less
    n     steps of a probe (``resolved_probe_steps``); T steps of the run
    β     how near to the average Schedule-Free takes its gradients
    ΔZ    loss gained: training loss before the first step, less the best probe's validation loss
    m     the multiplier that is applied

    1. The two rungs in the middle are tried, n steps each, in the first half of which the LR
       rises. With ``first_lr`` the rungs are powers of √10, and the two are those around it: a
       wrong guess begins the walk elsewhere and ends it at the same rungs.
    2. Of neighbours the smaller LR is preferred, unless the larger one wins by MARGIN · ΔZ. While
       the preferred rung is the smallest or the largest that was tried, the next one on its side
       is: three or four probes where six spread over three decades would be six.
    3. ln m = Σ w_j ln η_j - c ln(T / n), the weighted mean of the preferred rung and those beside
       it (:func:`~ray_autolrs.algorithm.search.first_search.weighted_mean_lr`): short probes from
       initialisation favour LRs that are too large for T steps. c is HORIZON_CORRECTION for
       noisy gradients, and less where a large batch makes them less so: times (1 - β) / 0.2.

The margin is for models that begin on a plateau. A masked language model first learns how often
tokens occur: every LR of two decades is as good at that, within 0.03 ΔZ, but at the upper ones it
learns nothing else. In other models a rung too high shows in the probes' losses.

A probe begins like a run in small, at an LR that rises for long. With a warm-up of a tenth the
best LR of a probe was off a run's by a factor of 1.64 (one standard deviation over six tasks,
around their mean), with half of it by 1.55, and it varied less. Without averaging, probes fall to
zero over n/2 steps more, because the validation loss at a high LR is mostly noise of the LR.

Source: our measurements (bench/NOTES.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ray_autolrs.algorithm.schedules.decays import Trapezoid
from ray_autolrs.algorithm.search.first_search import FirstSearch, anneal_steps
from ray_autolrs.algorithm.search.midpoints import log_midpoints
from ray_autolrs.algorithm.search.strategy import Candidate, Observation, StageContext
from ray_autolrs.config import MOST_LOOKAHEAD, AutoLRSConfig

RUNG = math.sqrt(10)
"""Largest factor between two LRs that are tried one after the other."""

GUESS_RUNGS = 6
"""Rungs to each side of the two around ``first_lr``: it may be off by a factor of 300."""

MARGIN = 0.02
"""Part of the loss gained by which a higher LR must win. Ours (measured)."""

TEMPERATURE = 0.05
"""Of the weighted mean, as a part of the loss that has been gained. Ours (measured)."""

HORIZON_CORRECTION = 0.16
"""Part of ln(T / n) by which an LR found at n steps is too large for T. Ours (measured)."""

USUAL_PROBES = 4
"""Probes of a search that is not unlucky: three or four where an interval has six rungs."""


class BracketStrategy(FirstSearch):
    """``search="bracket"``."""

    temperature = TEMPERATURE

    @property
    def interval(self) -> tuple[float, float]:
        rungs = _rungs(self.config)
        return rungs[0], rungs[-1]

    def suggest_first(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        rungs = _rungs(self.config)
        middle = (len(rungs) - 1) // 2
        asked = len(told) + len(running)
        if asked < 2:
            return self._probe(rungs[middle + asked])
        if running:
            return None
        losses = _losses(rungs, told)
        preferred = _preferred(losses, context.initial_loss)
        place = _next_place(losses, preferred, len(rungs))
        return None if place is None else self._probe(rungs[place])

    def finalists(self, context: StageContext, results: Sequence[Observation]) -> list[Observation]:
        """Return the preferred rung's result and those beside it.

        So where the walk began has no say in the mean.
        """
        losses = _losses(_rungs(self.config), results)
        preferred = _preferred(losses, context.initial_loss)
        judged = dict(zip(losses, results, strict=True))
        beside = (preferred - 1, preferred, preferred + 1)
        return [judged[place] for place in beside if place in judged]

    def first_probes(self, results: Sequence[Observation]) -> int:
        rungs = _rungs(self.config)
        return sum(result.lr in rungs for result in results)

    def corrected(self, lr: float) -> float:
        if self.config.total_steps is None:
            return lr
        ratio = self.config.total_steps / self.config.resolved_probe_steps
        momentum = self.config.averaging_momentum
        noise = 1.0 if momentum is None else min(1.0, (1 - momentum) / MOST_LOOKAHEAD)
        return lr * math.exp(-noise * HORIZON_CORRECTION * max(0.0, math.log(ratio)))

    def _probe(self, lr: float) -> Candidate:
        steps, decay = self.config.resolved_probe_steps, anneal_steps(self.config)
        return self.candidate(lr, steps + decay, Trapezoid(0, steps + decay, steps // 2, decay))


def bracket_steps(config: AutoLRSConfig) -> int:
    """Return the optimizer steps that the search before the first step usually takes."""
    return USUAL_PROBES * (config.resolved_probe_steps + anneal_steps(config))


def _rungs(config: AutoLRSConfig) -> list[float]:
    """Return the LRs that may be tried, in order; the first two to try are in the middle."""
    guess = config.first_lr
    if guess is not None:
        # A little more, so that a guess that is a rung counts as one for all that it is rounded.
        below = math.floor(math.log(guess) / math.log(RUNG) + 1e-6)
        places = range(below - GUESS_RUNGS, below + 2 + GUESS_RUNGS)
        return [10.0 ** (place / 2) for place in places]
    lr_min, lr_max = config.lr_interval
    # A little less, so that three decades, whose quotient is a rounded number, have six.
    count = math.ceil(math.log(lr_max / lr_min) / math.log(RUNG) - 1e-6)
    return log_midpoints(lr_min, lr_max, max(3, count))


def _losses(rungs: Sequence[float], results: Sequence[Observation]) -> dict[int, float]:
    """Return the loss of each rung that was tried, infinite where it diverged."""
    return {
        rungs.index(result.lr): math.inf if result.forecast is None else result.forecast.loss
        for result in results
    }


def _preferred(losses: dict[int, float], initial_loss: float) -> int:
    """Return the best rung, or the one that is reached from it by steps down that cost little.

    >>> _preferred({2: 1.01, 3: 1.0}, initial_loss=2.0), _preferred({2: 1.1, 3: 1.0}, 2.0)
    (2, 3)
    """
    place = min(losses, key=lambda place: (losses[place], place))
    gained = initial_loss - losses[place]
    margin = MARGIN * gained if gained > 0 else 0.0
    while place - 1 in losses and losses[place - 1] <= losses[place] + margin:
        place -= 1
    return place


def _next_place(losses: dict[int, float], preferred: int, count: int) -> int | None:
    """Return the rung to try next, or None once the preferred one has neighbours or is at the end.

    Where every LR diverged so far, it is the next smaller one.

    >>> _next_place({2: 1.0, 3: 2.0}, 2, 6), _next_place({2: 2.0, 3: 1.0}, 3, 6)
    (1, 4)
    >>> _next_place({1: 3.0, 2: 1.0, 3: 2.0}, 2, 6)
    """
    if preferred == min(losses) and preferred > 0:
        return preferred - 1
    if preferred == max(losses) and preferred < count - 1 and losses[preferred] < math.inf:
        return preferred + 1
    return None
