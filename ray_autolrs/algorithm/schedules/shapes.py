"""Shapes of the learning rate (LR): factors in [0, 1] that depend on the step alone.

Symbols
    t   applied optimizer step, from 0: the LR of a step is the one its update is made with
    a   first step of the shape (``first_step``)
    n   steps that it is planned for (``steps``)
    i   place of a step in the shape, t - a, held at 0 before it
    w   steps of the warm-up, in which the factor is ((i + 1)/w)^q (``warmup_power``)
    d   steps of the decay

What a user passes as a run's shape is in :mod:`ray_autolrs.algorithm.schedules.run_shapes`.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

from ray_autolrs.algorithm.field_checks import (
    check,
    check_integer,
    check_positive,
    is_integer,
    is_number,
)


class Shape(Protocol):
    """A factor of the LR as a pure function of the step."""

    name: str

    @abstractmethod
    def factor(self, step: int) -> float:
        """Return the factor, in [0, 1], at an applied step."""


@dataclass(frozen=True, slots=True)
class Flat:
    """The paper's shape: the LR stays at its peak.

    >>> [Flat().factor(step) for step in (0, 10, 1000)]
    [1.0, 1.0, 1.0]
    """

    name = "flat"

    def factor(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True, slots=True)
class WarmupStableDecay:
    """Rises in its first steps, stays at 1, and falls linearly to 0 in its last.

    The factor is min(1, ((i + 1)/w)^q) min(1, (n - i)/d). Where ``steps`` is None it has no end
    and does not fall. It reaches 0 at the step after its last.

    Source: Hu et al. 2024, "MiniCPM" (WSD, with its warm-up); the power q is ours.

    Raises:
        ValueError: a field is out of its range.

    >>> shape = WarmupStableDecay(first_step=0, steps=10, warmup_steps=2, decay_steps=4)
    >>> [shape.factor(step) for step in (0, 1, 6, 7, 9, 10)]
    [0.5, 1.0, 1.0, 0.75, 0.25, 0.0]
    """

    first_step: int
    steps: int | None
    warmup_steps: int
    decay_steps: int
    warmup_power: float = 1.0
    name = "warmup_stable_decay"

    def __post_init__(self) -> None:
        check_integer(self, "first_step", minimum=0)
        check_integer(self, "steps", minimum=1, optional=True)
        check_integer(self, "warmup_steps", minimum=0)
        check_integer(self, "decay_steps", minimum=0)
        check_positive(self, "warmup_power")
        if self.steps is None:
            check(self, "decay_steps", self.decay_steps == 0, "needs steps, to end with them")
            return
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
class WarmupCosine:
    """Rises in its first steps, then falls along half a cosine wave: (1 + cos πp) / 2.

    p is the part of the steps after the warm-up that lies before a step, at most 1.

    Source: Loshchilov & Hutter 2017, "SGDR", equation 5, with a single cycle.

    Raises:
        ValueError: a field is out of its range.

    >>> shape = WarmupCosine(first_step=0, steps=6, warmup_steps=2)
    >>> [round(shape.factor(step), 4) for step in (0, 1, 2, 4, 6)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    first_step: int
    steps: int
    warmup_steps: int = 0
    warmup_power: float = 1.0
    name = "warmup_cosine"

    def __post_init__(self) -> None:
        check_integer(self, "first_step", minimum=0)
        check_integer(self, "steps", minimum=1)
        check_integer(self, "warmup_steps", minimum=0)
        check_positive(self, "warmup_power")
        rule = f"must be smaller than steps={self.steps}"
        check(self, "warmup_steps", self.warmup_steps < self.steps, rule)

    def factor(self, step: int) -> float:
        place = max(step - self.first_step, 0)
        if place < self.warmup_steps:
            return _rise(self, place)
        part = (place - self.warmup_steps) / (self.steps - self.warmup_steps)
        return (1 + math.cos(math.pi * min(part, 1.0))) / 2


@dataclass(frozen=True, slots=True)
class Piecewise:
    """Goes in straight lines from point to point, and stays before the first and after the last.

    It is for shapes of one's own: a saved schedule can hold no other.

    Raises:
        ValueError: there is no point, the steps do not increase, or a factor is not in [0, 1].

    >>> shape = Piecewise(points=((0, 0.5), (2, 1.0), (6, 0.0)))
    >>> [shape.factor(step) for step in (0, 1, 2, 4, 9)]
    [0.5, 0.75, 1.0, 0.5, 0.0]
    """

    points: tuple[tuple[int, float], ...]
    """(step, factor), in the order of the steps."""

    name = "piecewise"

    def __post_init__(self) -> None:
        # Lists are tuples that have been JSON.
        holds = isinstance(self.points, list | tuple) and all(map(_is_point, self.points))
        rule = "must be pairs (step, factor): an integer of at least 0, and a number in [0, 1]"
        check(self, "points", holds and len(self.points) > 0, rule)
        object.__setattr__(self, "points", tuple((step, part) for step, part in self.points))
        steps = [step for step, _ in self.points]
        increase = all(a < b for a, b in itertools.pairwise(steps))
        check(self, "points", increase, "must be in the order of their steps, each step once")

    def factor(self, step: int) -> float:
        before = self.points[0]
        for point in self.points:
            if step < point[0]:
                if point is before:
                    break
                way = (step - before[0]) / (point[0] - before[0])
                return before[1] + way * (point[1] - before[1])
            before = point
        return float(before[1])


def _is_point(point: object) -> bool:
    if not (isinstance(point, list | tuple) and len(point) == 2):
        return False
    step, factor = point
    return is_integer(step) and step >= 0 and is_number(factor) and 0 <= factor <= 1


def _rise(shape: WarmupCosine | WarmupStableDecay, place: int) -> float:
    return float(((place + 1) / shape.warmup_steps) ** shape.warmup_power)
