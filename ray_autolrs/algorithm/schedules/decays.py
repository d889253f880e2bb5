"""Shapes of the learning rate (LR) that fall from 1: the schedules of most training recipes.

A decay reaches its floor at step a + n, the first one after its last, as the schedules of torch
and transformers do: with a floor of 0, no update is made with an LR of zero. Afterwards the
factor is held. The symbols are those of :mod:`ray_autolrs.algorithm.schedules.shapes`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, get_args

from ray_autolrs.algorithm.schedules.shapes import (
    above_floor,
    check,
    check_floor,
    check_integer,
    check_span,
    half_cosine,
    is_integer,
    is_number,
    progress,
)

DecayCurve = Literal["linear", "cosine", "1-sqrt"]


@dataclass(frozen=True, slots=True)
class Linear:
    """Falls linearly: f + (1 - f)(1 - p).

    Source: Defazio et al. 2023, "Optimal linear decay learning rate schedules and further
    refinements"; with a floor of 0 it is the usual fine-tuning schedule (Devlin et al. 2019).

    Raises:
        ValueError: a field is out of its range.

    >>> [Linear(first_step=10, steps=4).factor(step) for step in (10, 11, 13, 14)]
    [1.0, 0.75, 0.25, 0.0]
    """

    first_step: int
    steps: int
    floor: float = 0.0
    name = "linear"

    def __post_init__(self) -> None:
        check_span(self)
        check_floor(self)

    def factor(self, step: int) -> float:
        return above_floor(self.floor, 1 - progress(self, step))


@dataclass(frozen=True, slots=True)
class Cosine:
    """Falls along half a cosine wave: f + (1 - f)(1 + cos πp) / 2.

    With ``warmup_steps`` it first rises, within its steps, with ``warmup_power`` as
    :class:`Trapezoid` does.

    Source: Loshchilov & Hutter 2017, "SGDR", equation 5, with a single cycle.

    Raises:
        ValueError: a field is out of its range.

    >>> [round(Cosine(first_step=0, steps=4).factor(step), 4) for step in (0, 1, 2, 4)]
    [1.0, 0.8536, 0.5, 0.0]
    >>> [Cosine(first_step=0, steps=6, warmup_steps=2).factor(step) for step in (0, 1, 2, 4)]
    [0.5, 1.0, 1.0, 0.5]
    """

    first_step: int
    steps: int
    floor: float = 0.0
    warmup_steps: int = 0
    warmup_power: float = 1.0
    name = "cosine"

    def __post_init__(self) -> None:
        check_span(self)
        check_floor(self)
        check_integer(self, "warmup_steps", minimum=0)
        _check_warmup_power(self)
        rule = f"must be smaller than steps={self.steps}"
        check(self, "warmup_steps", self.warmup_steps < self.steps, rule)

    def factor(self, step: int) -> float:
        place = max(step - self.first_step, 0)
        if place < self.warmup_steps:
            return _rise(self, place)
        part = (place - self.warmup_steps) / (self.steps - self.warmup_steps)
        return above_floor(self.floor, half_cosine(min(part, 1.0)))


@dataclass(frozen=True, slots=True)
class Polynomial:
    """Falls as a power of what remains: f + (1 - f)(1 - p)^power.

    Source: Liu et al. 2015, "ParseNet" ("poly"), with ``power=0.9``; 1 is :class:`Linear`.

    Raises:
        ValueError: a field is out of its range.

    >>> [Polynomial(first_step=0, steps=4, power=2.0).factor(step) for step in (0, 2, 3, 4)]
    [1.0, 0.25, 0.0625, 0.0]
    """

    first_step: int
    steps: int
    power: float
    floor: float = 0.0
    name = "polynomial"

    def __post_init__(self) -> None:
        check_span(self)
        check_floor(self)
        check(
            self,
            "power",
            is_number(self.power) and self.power > 0,
            "must be a positive, finite number; 1 is linear, 2 falls faster at first",
        )

    def factor(self, step: int) -> float:
        return above_floor(self.floor, float((1 - progress(self, step)) ** self.power))


@dataclass(frozen=True, slots=True)
class WarmupStableDecay:
    """Stays at 1 and falls in the last ``decay_steps`` of its steps (WSD without its warm-up).

    With q the progress within the decay, the factor is f + (1 - f) g(q): g is 1 - q for
    ``"linear"``, (1 + cos πq) / 2 for ``"cosine"`` and 1 - √q for ``"1-sqrt"``.

    Source: Hu et al. 2024, "MiniCPM" (the shape); Hägele et al. 2024, "Scaling laws and
    compute-optimal training beyond fixed training durations" (1-sqrt, and the length).

    Raises:
        ValueError: a field is out of its range.

    >>> wsd = WarmupStableDecay(first_step=0, steps=10, decay_steps=4)
    >>> [wsd.factor(step) for step in (0, 6, 7, 9, 10)]
    [1.0, 1.0, 0.75, 0.25, 0.0]
    """

    first_step: int
    steps: int
    decay_steps: int
    curve: DecayCurve = "linear"
    floor: float = 0.0
    name = "wsd"

    def __post_init__(self) -> None:
        check_span(self)
        check_floor(self)
        check_integer(self, "decay_steps", minimum=1)
        rule = f"must be at most steps={self.steps}; decay for less, or train longer"
        check(self, "decay_steps", self.decay_steps <= self.steps, rule)
        curves = get_args(DecayCurve)
        check(self, "curve", self.curve in curves, f"must be one of {curves}")

    def factor(self, step: int) -> float:
        decay_begins = self.first_step + self.steps - self.decay_steps
        part = min(max((step - decay_begins) / self.decay_steps, 0.0), 1.0)
        if self.curve == "linear":
            return above_floor(self.floor, 1 - part)
        if self.curve == "cosine":
            return above_floor(self.floor, half_cosine(part))
        return above_floor(self.floor, 1 - math.sqrt(part))


@dataclass(frozen=True, slots=True)
class Trapezoid:
    """Rises in its first steps, stays at 1, and falls linearly to 0 in its last.

    With i the place of a step in it, the factor is min(1, ((i + 1)/w)^q) min(1, (n - i)/d); q is
    ``warmup_power``, 1 for a linear rise. Where ``steps`` is None it has no end and does not fall.
    The other decays reach 0 at the step after their last; so does this one.

    Source: Hu et al. 2024, "MiniCPM" (WSD, with its warm-up); the power is ours.

    Raises:
        ValueError: a field is out of its range.

    >>> wsd = Trapezoid(first_step=0, steps=10, warmup_steps=2, decay_steps=4)
    >>> [wsd.factor(step) for step in (0, 1, 6, 7, 9, 10)]
    [0.5, 1.0, 1.0, 0.75, 0.25, 0.0]
    """

    first_step: int
    steps: int | None
    warmup_steps: int
    decay_steps: int
    warmup_power: float = 1.0
    name = "trapezoid"

    def __post_init__(self) -> None:
        check_integer(self, "first_step", minimum=0)
        check_integer(self, "warmup_steps", minimum=0)
        check_integer(self, "decay_steps", minimum=0)
        _check_warmup_power(self)
        if self.steps is None:
            check(self, "decay_steps", self.decay_steps == 0, "needs steps, to end with them")
            return
        check_integer(self, "steps", minimum=1)
        rule = f"and decay_steps={self.decay_steps} must fit into steps={self.steps}"
        fits = self.warmup_steps + self.decay_steps <= self.steps
        check(self, "warmup_steps", fits, rule)

    def factor(self, step: int) -> float:
        place = max(step - self.first_step, 0)
        rise = _rise(self, place) if place < self.warmup_steps else 1.0
        if self.steps is None or self.decay_steps == 0:
            return rise
        return rise * min(1.0, max(0, self.steps - place) / self.decay_steps)


@dataclass(frozen=True, slots=True)
class InverseSqrt:
    """Falls as the inverse square root of the step: √(s / (t - a + s)), s the time scale.

    It knows no end. With s = a = the warm-up's length it is √(a / t), the Transformer's.

    Source: Vaswani et al. 2017, "Attention is all you need", equation 3.

    Raises:
        ValueError: a field is out of its range.

    >>> [InverseSqrt(first_step=100, timescale=100).factor(step) for step in (100, 400, 2500)]
    [1.0, 0.5, 0.2]
    """

    first_step: int
    timescale: int
    name = "inverse_sqrt"

    def __post_init__(self) -> None:
        check_integer(self, "first_step", minimum=0)
        check_integer(self, "timescale", minimum=1)

    def factor(self, step: int) -> float:
        return math.sqrt(self.timescale / (max(step - self.first_step, 0) + self.timescale))


@dataclass(frozen=True, slots=True)
class MultiStep:
    """Falls by the same factor at each milestone: gamma^(milestones reached).

    A milestone is the first applied step with the smaller LR. The factor 0.1 at one half and
    three quarters of the run is the usual choice.

    Source: He et al. 2016, "Deep residual learning", section 4.2.

    Raises:
        ValueError: a field is out of its range.

    >>> [MultiStep(milestones=(50, 75), gamma=0.5).factor(step) for step in (0, 49, 50, 80)]
    [1.0, 1.0, 0.5, 0.25]
    """

    milestones: tuple[int, ...]
    gamma: float = 0.1
    name = "multi_step"

    def __post_init__(self) -> None:
        if isinstance(self.milestones, list):  # a tuple that has been JSON
            object.__setattr__(self, "milestones", tuple(self.milestones))
        holds = isinstance(self.milestones, tuple) and all(
            is_integer(milestone) and milestone >= 0 for milestone in self.milestones
        )
        check(self, "milestones", holds, "must be steps: integers of at least 0")
        increase = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        check(self, "milestones", increase, "must increase; sort them and drop doubles")
        rule = "must lie in (0, 1]: the LR is multiplied with it at each milestone"
        check(self, "gamma", is_number(self.gamma) and 0 < self.gamma <= 1, rule)

    def factor(self, step: int) -> float:
        return float(self.gamma ** bisect_right(self.milestones, step))


def _rise(shape: Cosine | Trapezoid, place: int) -> float:
    return float(((place + 1) / shape.warmup_steps) ** shape.warmup_power)


def _check_warmup_power(shape: Cosine | Trapezoid) -> None:
    rule = "must be a positive, finite number; 1 is linear, less rises faster at first"
    holds = is_number(shape.warmup_power) and shape.warmup_power > 0
    check(shape, "warmup_power", holds, rule)
