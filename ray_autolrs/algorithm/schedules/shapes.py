"""Shapes of the learning rate (LR): factors in [0, 1] that depend on the step alone.

This module holds what all of them share and the two simplest ones. Those that fall are in
:mod:`ray_autolrs.algorithm.schedules.decays`, those that go up and down again in
:mod:`ray_autolrs.algorithm.schedules.cycles`.

Symbols
    t   applied optimizer step, from 0: the LR of a step is the one its update is made with
    a   first step of the shape (``first_step``)
    n   steps that it is planned for (``steps``)
    p   progress, (t - a) / n, held at 0 before the first step and at 1 after the last
    f   floor: the smallest factor of a decay or a cycle (``floor``)
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol


class Shape(Protocol):
    """A factor of the LR as a pure function of the step."""

    name: str

    @abstractmethod
    def factor(self, step: int) -> float:
        """Return the factor, in [0, 1], at an applied step."""


@dataclass(frozen=True, slots=True)
class Constant:
    """The paper's shape: the LR stays at the multiplier.

    >>> [Constant().factor(step) for step in (0, 10, 1000)]
    [1.0, 1.0, 1.0]
    """

    name = "constant"

    def factor(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True, slots=True)
class LinearWarmup:
    """Rises linearly from 1/steps at ``first_step`` to 1 at the last of ``steps`` steps.

    transformers begins at 0 and reaches 1 a step later: its first update changes nothing.

    >>> [LinearWarmup(first_step=0, steps=4).factor(step) for step in (0, 1, 3, 9)]
    [0.25, 0.5, 1.0, 1.0]
    """

    first_step: int
    steps: int
    name = "linear_warmup"

    def factor(self, step: int) -> float:
        return min(1.0, (step - self.first_step + 1) / self.steps)


# What the shapes share --------------------------------------------------------------------


class Span(Protocol):
    """A shape with a first step and a length."""

    @property
    def first_step(self) -> int: ...
    @property
    def steps(self) -> int: ...


def progress(shape: Span, step: int) -> float:
    """Return the part of the shape's steps that lies before ``step``, in [0, 1]."""
    return min(max((step - shape.first_step) / shape.steps, 0.0), 1.0)


def half_cosine(part: float) -> float:
    """Return half a cosine wave from 1 at 0 to 0 at 1."""
    return (1 + math.cos(math.pi * part)) / 2


def above_floor(floor: float, part: float) -> float:
    """Return the point that lies the given part of the way from ``floor`` up to 1."""
    return floor + (1 - floor) * part


def is_integer(value: object) -> bool:
    """Return whether a value is an integer; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is a finite number; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check(shape: Any, name: str, holds: bool, rule: str) -> None:
    """Refuse a shape's field unless the rule holds.

    Raises:
        ValueError: it does not; the message names the field, its value and the rule.
    """
    if not holds:
        raise ValueError(f"{type(shape).__name__}.{name}={getattr(shape, name)!r} {rule}")


def check_integer(shape: Any, name: str, *, minimum: int) -> None:
    """Refuse a field that is not an integer of at least ``minimum``."""
    value = getattr(shape, name)
    rule = f"must be an integer of at least {minimum}"
    check(shape, name, is_integer(value) and value >= minimum, rule)


def check_span(shape: Span) -> None:
    """Refuse a first step below 0, and fewer steps than one."""
    check_integer(shape, "first_step", minimum=0)
    check_integer(shape, "steps", minimum=1)


def check_floor(shape: Any) -> None:
    """Refuse a floor outside of [0, 1)."""
    rule = "must lie in [0, 1): it is a factor of the peak LR, not an LR"
    check(shape, "floor", is_number(shape.floor) and 0 <= shape.floor < 1, rule)
