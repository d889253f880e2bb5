"""A learning-rate schedule as a list of segments, each a peak LR times a shape.

Symbols
    η   learning rate (LR) of the first parameter group at a step
    m   peak LR: the LR that a search chose
    s   shape: a factor in [0, 1] that depends on the step alone
        (:mod:`ray_autolrs.algorithm.schedules.shapes`)

η(step) = m · s(step). The paper's shape is flat, so its schedule is piecewise constant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_autolrs.algorithm.field_checks import shortened
from ray_autolrs.algorithm.schedules.shapes import (
    Flat,
    Piecewise,
    Shape,
    WarmupCosine,
    WarmupStableDecay,
)

SHAPES: dict[str, type[Shape]] = {
    shape.name: shape for shape in (Flat, WarmupStableDecay, WarmupCosine, Piecewise)
}
"""Every shape, by the name that stands in a saved schedule."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The LR of a range of steps.

    Attributes:
        first_step: first applied step that it holds.
        last_step: last applied step that it holds.
        peak_lr: the LR that the shape is multiplied with.
        shape: factor of the step.
    """

    first_step: int
    last_step: int
    peak_lr: float
    shape: Shape = field(default=Flat())

    @property
    def steps(self) -> int:
        """Number of steps that it holds."""
        return self.last_step - self.first_step + 1

    def lr_at(self, step: int) -> float:
        """Return the LR of the first parameter group at ``step``, which the segment holds."""
        assert self.first_step <= step <= self.last_step, (step, self)
        return self.peak_lr * self.shape.factor(step)

    def to_dict(self) -> dict[str, Any]:
        """Return the segment as JSON values."""
        return {
            "first_step": self.first_step,
            "last_step": self.last_step,
            "peak_lr": self.peak_lr,
            "shape": {"name": self.shape.name} | dataclasses.asdict(self.shape),  # type: ignore[call-overload]
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Segment:
        """Build a segment from :meth:`to_dict`'s result.

        Raises:
            ValueError: the shape's name is unknown, or a field is missing, unknown or refused.
        """
        try:
            shape_fields = dict(values["shape"].items())
            shape_name = shape_fields.pop("name")
            fields = {key: value for key, value in values.items() if key != "shape"}
            if isinstance(shape_name, str) and shape_name in SHAPES:
                return cls(**fields, shape=SHAPES[shape_name](**shape_fields))
        except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(
                f"{shortened(values)} is not a segment: it needs first_step, last_step, peak_lr "
                "and a shape with a name and its fields"
            ) from error
        raise ValueError(
            f"shape {shortened(shape_name)} is unknown; the shapes are {sorted(SHAPES)}"
        )


def group_lrs(lr: float, initial_lrs: Sequence[float]) -> list[float]:
    """Return the LR of each parameter group for an LR of the first one.

    The groups keep the ratio that the user's optimizer gave them. The first group gets ``lr``
    to the last bit, so that a replay repeats a run exactly.

    Args:
        lr: LR of the first group.
        initial_lrs: the groups' LRs as the user built them; the first is not zero.

    >>> group_lrs(0.5, [0.1, 0.2])
    [0.5, 1.0]
    """
    reference = initial_lrs[0]
    return [lr * (initial_lr / reference) for initial_lr in initial_lrs]
