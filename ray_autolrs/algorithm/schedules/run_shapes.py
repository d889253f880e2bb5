"""Shapes of a run's learning rate (LR) as users choose them: factors of every stage's LR.

Each turns into a :class:`~ray_autolrs.algorithm.schedules.shapes.Shape` once the run's first step,
its length and its warm-up are known. One's own has these members, and ``over`` returns one of the
shapes of that module, such as ``Piecewise``: a saved schedule can hold no other.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

from ray_autolrs.algorithm.field_checks import check_fraction
from ray_autolrs.algorithm.schedules.shapes import Flat, Shape, WarmupCosine, WarmupStableDecay


class RunShape(Protocol):
    """How the LR goes over a run.

    Attributes:
        needs_end: whether it needs a run whose length is known.
    """

    needs_end: bool

    @property
    def decay_fraction(self) -> float:
        """Part of the run in which the LR falls, 0 for none.

        A run without a known end falls over that part of itself once it is asked to finish.
        """

    @abstractmethod
    def over(
        self, first_step: int, steps: int | None, *, warmup_steps: int, warmup_power: float
    ) -> Shape:
        """Return the factor of each step.

        Args:
            first_step: applied step that the shape begins at.
            steps: its length; None without a known end.
            warmup_steps: steps of its own in which it rises.
            warmup_power: power of the step that it rises with.
        """


@dataclass(frozen=True, slots=True)
class Constant:
    """Stays at the LR that was found: the default's, and the paper's.

    >>> Constant().over(0, 2000, warmup_steps=0, warmup_power=1.0)
    Flat()
    """

    needs_end = False
    decay_fraction = 0.0

    def over(
        self, first_step: int, steps: int | None, *, warmup_steps: int, warmup_power: float
    ) -> Shape:
        return _rising(warmup_steps, warmup_power)


@dataclass(frozen=True, slots=True)
class WSD:
    """Warm-up, stable, decay: stays, and falls linearly to zero in the run's last part.

    Attributes:
        decay_fraction: that part, in (0, 1). Ours (measured).

    Raises:
        ValueError: it is outside of (0, 1).
    """

    decay_fraction: float = 0.3
    needs_end = False

    def __post_init__(self) -> None:
        check_fraction(self, "decay_fraction")

    def over(
        self, first_step: int, steps: int | None, *, warmup_steps: int, warmup_power: float
    ) -> Shape:
        if steps is None:
            return _rising(warmup_steps, warmup_power)
        decay = max(1, round(self.decay_fraction * steps))
        return WarmupStableDecay(first_step, steps, warmup_steps, decay, warmup_power)


@dataclass(frozen=True, slots=True)
class Linear:
    """Falls linearly to zero from the warm-up's end on."""

    needs_end = True
    decay_fraction = 1.0

    def over(
        self, first_step: int, steps: int | None, *, warmup_steps: int, warmup_power: float
    ) -> Shape:
        assert steps is not None, "the config refuses it"
        return WarmupStableDecay(
            first_step, steps, warmup_steps, steps - warmup_steps, warmup_power
        )


@dataclass(frozen=True, slots=True)
class Cosine:
    """Falls to zero along half a cosine wave from the warm-up's end on."""

    needs_end = True
    decay_fraction = 1.0

    def over(
        self, first_step: int, steps: int | None, *, warmup_steps: int, warmup_power: float
    ) -> Shape:
        assert steps is not None, "the config refuses it"
        return WarmupCosine(first_step, steps, warmup_steps, warmup_power)


def _rising(warmup_steps: int, warmup_power: float) -> Shape:
    if warmup_steps == 0:
        return Flat()
    return WarmupStableDecay(0, None, warmup_steps, 0, warmup_power)
