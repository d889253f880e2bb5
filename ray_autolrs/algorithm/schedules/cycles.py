"""Shapes of the learning rate (LR) that go up and down: one-cycle, CLR and SGDR.

Their factor is 1 at a peak, so that the multiplier is the largest LR, like that of a decay.
The symbols are those of :mod:`ray_autolrs.algorithm.schedules.shapes`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ray_autolrs.algorithm.schedules.shapes import (
    above_floor,
    check,
    check_floor,
    check_integer,
    check_span,
    half_cosine,
    is_number,
)

CycleMode = Literal["triangular", "triangular2", "exp_range"]
Anneal = Literal["cosine", "linear"]


@dataclass(frozen=True, slots=True)
class OneCycle:
    """Rises from ``start`` to 1 and falls to ``end``, which its last step trains with.

    The peak lies at step a + rise_fraction·n - 1, and the last step is a + n - 1. The rise is
    the schedule's own warm-up. The defaults are torch's: two phases, as fastai has them.

    Source: Smith & Topin 2018, "Super-convergence" (linear, and a third phase that falls to
    ``end``, which torch's default leaves out, as we do).

    Raises:
        ValueError: a field is out of its range.

    >>> shape = OneCycle(0, steps=10, rise_fraction=0.5, start=0.25, end=0.0, anneal="linear")
    >>> [round(shape.factor(step), 4) for step in (0, 2, 4, 5, 8, 9)]
    [0.25, 0.625, 1.0, 0.8, 0.2, 0.0]
    """

    first_step: int
    steps: int
    rise_fraction: float = 0.3
    start: float = 1 / 25
    end: float = 1 / 25e4
    anneal: Anneal = "cosine"
    name = "one_cycle"

    def __post_init__(self) -> None:
        check_span(self)
        fraction = self.rise_fraction
        rule = "must lie in (0, 1): the part of the steps in which the LR rises"
        check(self, "rise_fraction", is_number(fraction) and 0 < fraction < 1, rule)
        rule = f"times rise_fraction={fraction} must be more than 1; raise one of them"
        check(self, "steps", self.steps * fraction > 1, rule)
        for name in ("start", "end"):
            value = getattr(self, name)
            rule = "must lie in [0, 1): it is a factor of the peak LR, not an LR"
            check(self, name, is_number(value) and 0 <= value < 1, rule)
        anneals = get_args(Anneal)
        check(self, "anneal", self.anneal in anneals, f"must be one of {anneals}")

    def factor(self, step: int) -> float:
        place = min(max(step - self.first_step, 0), self.steps - 1)
        peak = self.rise_fraction * self.steps - 1
        if place <= peak:
            return self._between(self.start, 1 - place / peak)
        return self._between(self.end, (place - peak) / (self.steps - 1 - peak))

    def _between(self, low: float, part: float) -> float:
        """Return the factor the given part of the way from the peak down to ``low``."""
        return above_floor(low, half_cosine(part) if self.anneal == "cosine" else 1 - part)


@dataclass(frozen=True, slots=True)
class Cyclic:
    """CLR: rises from ``floor`` for ``half_cycle`` steps, falls as long, and begins again.

    With c = ⌊1 + (t - a) / 2h⌋ the cycle's number, h the half cycle and x = |(t - a)/h - 2c + 1|,
    the factor is f + (1 - f)·max(0, 1 - x)·d, where the height d is 1 for ``"triangular"``,
    2^(1 - c) for ``"triangular2"`` and gamma^(t - a) for ``"exp_range"``.

    Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.1; its
    half cycle is 2 to 10 epochs, its ``floor`` about a quarter.

    Raises:
        ValueError: a field is out of its range, or ``gamma`` is given to a mode without one.

    >>> shape = Cyclic(first_step=0, half_cycle=2, floor=0.5, mode="triangular2")
    >>> [shape.factor(step) for step in (0, 1, 2, 3, 4, 5, 6, 8)]
    [0.5, 0.75, 1.0, 0.75, 0.5, 0.625, 0.75, 0.5]
    """

    first_step: int
    half_cycle: int
    floor: float = 0.25
    mode: CycleMode = "triangular"
    gamma: float = 1.0
    name = "cyclic"

    def __post_init__(self) -> None:
        check_integer(self, "first_step", minimum=0)
        check_integer(self, "half_cycle", minimum=1)
        check_floor(self)
        modes = get_args(CycleMode)
        check(self, "mode", self.mode in modes, f"must be one of {modes}")
        rule = "must lie in (0, 1]: a cycle's height is multiplied with it at each step"
        check(self, "gamma", is_number(self.gamma) and 0 < self.gamma <= 1, rule)
        rule = f"is for mode='exp_range' only; leave it out for mode={self.mode!r}"
        check(self, "gamma", self.gamma == 1 or self.mode == "exp_range", rule)

    def factor(self, step: int) -> float:
        place = max(step - self.first_step, 0)
        cycle, within = divmod(place, 2 * self.half_cycle)  # this cycle counts from 0
        height = 1 - abs(within / self.half_cycle - 1)
        if self.mode == "triangular2":
            height = math.ldexp(height, -cycle)
        elif self.mode == "exp_range":
            height *= self.gamma**place
        return above_floor(self.floor, height)


@dataclass(frozen=True, slots=True)
class CosineRestarts:
    """SGDR: half a cosine wave from 1 to ``floor``, again and again, each ``growth`` times longer.

    With q the progress within the cycle, the factor is f + (1 - f)(1 + cos πq) / 2.

    Source: Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts",
    equation 5; T_0 is ``first_cycle`` and T_mult is ``growth``.

    Raises:
        ValueError: a field is out of its range.

    >>> shape = CosineRestarts(first_step=0, first_cycle=2, growth=2)
    >>> [round(shape.factor(step), 4) for step in (0, 1, 2, 3, 4, 5, 6)]
    [1.0, 0.5, 1.0, 0.8536, 0.5, 0.1464, 1.0]
    """

    first_step: int
    first_cycle: int
    growth: int = 1
    floor: float = 0.0
    name = "cosine_restarts"

    def __post_init__(self) -> None:
        check_integer(self, "first_step", minimum=0)
        check_integer(self, "first_cycle", minimum=1)
        check_integer(self, "growth", minimum=1)
        check_floor(self)

    def factor(self, step: int) -> float:
        place, cycle = max(step - self.first_step, 0), self.first_cycle
        if self.growth == 1:
            place %= cycle
        while place >= cycle:  # in whole numbers: a logarithm would round at a restart
            place -= cycle
            cycle *= self.growth
        return above_floor(self.floor, half_cosine(place / cycle))
