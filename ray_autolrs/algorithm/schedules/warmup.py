"""How a run warms up."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ray_autolrs.algorithm.field_checks import check_integer, check_positive
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay


@dataclass(frozen=True, kw_only=True, slots=True)
class Warmup:
    """The steps in which the learning rate (LR) rises.

    Raises:
        ValueError: a field is out of its range.
    """

    steps: int | None = None
    """Its length. None is 5% of the run, or 100 steps without an end. To a found LR with
    averaging it is 20%, or 500: an average of weights is spoilt for long by early steps that were
    too large."""

    power: float | None = None
    """Power of the step that the LR rises with. None is 0.5 to a found LR with averaging, and 1
    (linear) otherwise. Ours (measured)."""

    lr: float | None = None
    """LR at its end. None rises to the LR that the first search finds. With a number the warm-up
    is applied before the first search, as a segment of its own."""

    def __post_init__(self) -> None:
        check_integer(self, "steps", minimum=0, optional=True)
        check_positive(self, "power", optional=True)
        check_positive(self, "lr", optional=True)

    def resolve(self, total_steps: int | None, *, is_averaged: bool) -> Warmup:
        """Return the warm-up with its length and its power filled in.

        >>> Warmup().resolve(1000, is_averaged=True)
        Warmup(steps=200, power=0.5, lr=None)
        """
        is_long = is_averaged and self.lr is None
        steps, power = self.steps, self.power
        if steps is None and total_steps is None:
            steps = 500 if is_long else 100
        elif steps is None:
            assert total_steps is not None
            steps = round((0.2 if is_long else 0.05) * total_steps)
        if power is None:
            power = 0.5 if is_long else 1.0
        return replace(self, steps=steps, power=power)

    @property
    def steps_before_search(self) -> int:
        """Steps that are applied before the first search; of a resolved warm-up."""
        assert self.steps is not None, self
        return 0 if self.lr is None else self.steps

    @property
    def segment(self) -> Segment | None:
        """What is applied before the first search, if anything is; of a resolved warm-up."""
        if self.lr is None or not self.steps:
            return None
        assert self.power is not None, self
        rise = WarmupStableDecay(0, None, self.steps, 0, self.power)
        return Segment(0, self.steps - 1, self.lr, rise)
