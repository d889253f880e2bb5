"""The schedule that a run found: saved, loaded, plotted and replayed.

A schedule is a list of segments without gaps that begins at step 0. Steps are applied
optimizer steps; learning rates (LRs) are those of the optimizer's first parameter group.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_autolrs.algorithm.field_checks import is_integer, is_number, shortened
from ray_autolrs.algorithm.schedules.found_with import FoundWith
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.lr_axes import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

FORMAT = "ray_autolrs.schedule/2"
"""What a schedule file says about itself. The number rises when an old reader would fail."""

PLOT_POINTS_PER_SEGMENT = 200
"""Ours: more points than a plot of usual width can tell apart."""


MOST_STEPS = 2**53
"""Every step up to here is a float of its own."""


@dataclass(frozen=True, slots=True)
class LRSchedule:
    """The LR of every step of a run, as a pure function of the step.

    Attributes:
        segments: at least one; the first begins at step 0, and each begins at the step after
            the end of the one before.
        averaging: the average of the weights that it was found with; None for none.

    Raises:
        ValueError: the segments leave a gap or overlap, or a segment has no steps or an LR
            that is not a finite number.

    >>> schedule = LRSchedule((Segment(0, 99, 0.5), Segment(100, 299, 0.1)))
    >>> schedule.total_steps, schedule.lr_at(0), schedule.lr_at(99), schedule.lr_at(100)
    (300, 0.5, 0.5, 0.1)
    """

    segments: tuple[Segment, ...]
    averaging: FoundWith | None = None

    def __post_init__(self) -> None:
        if not self.segments:
            raise ValueError("segments=() must hold at least one segment")
        expected = 0
        for place, segment in enumerate(self.segments):
            _check_segment(place, segment, expected)
            expected = segment.last_step + 1

    @property
    def total_steps(self) -> int:
        """Number of steps that the schedule holds."""
        return self.segments[-1].last_step + 1

    def lr_at(self, step: int) -> float:
        """Return the LR that the update of ``step`` is made with.

        Args:
            step: applied optimizer step, from 0.

        Raises:
            ValueError: the schedule does not hold the step.
        """
        if 0 <= step < self.total_steps:
            for segment in self.segments:
                if step <= segment.last_step:
                    return segment.lr_at(step)
        raise ValueError(
            f"step={step!r} must lie in [0, {self.total_steps - 1}]: "
            f"the schedule holds {self.total_steps} steps, counted from 0"
        )

    def optimizer(self, base: Optimizer) -> Optimizer:
        """Return the optimizer that the schedule's LRs are for.

        Args:
            base: an optimizer as the run's task builds it.

        Returns:
            :class:`ray_autolrs.ScheduleFree` around the base, as in the run, or the base itself
            where no average was part of the steps: another average (``EMA``) is kept beside it.

        Raises:
            ValueError: the base is averaged already, or its momentum is of a kind unknown.
        """
        averaging = self.averaging
        if averaging is None or averaging.momentum is None or averaging.power is None:
            return base
        from ray_autolrs.training.averaging.lr_factors import momentum_of
        from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree

        momentum, expected = momentum_of(base.param_groups[0]), averaging.base_momentum
        optimizer = ScheduleFree(base, momentum=averaging.momentum, power=averaging.power)
        if expected is not None and momentum != expected:
            warnings.warn(
                f"the schedule was found around an optimizer with momentum={expected}, and this "
                f"{type(base).__name__} has {momentum}: its LRs may mean another length of a step",
                stacklevel=2,
            )
        return optimizer

    def scheduler(self, optimizer: Optimizer, last_epoch: int = -1) -> LRScheduler:
        """Return a torch scheduler that replays this schedule in any PyTorch loop.

        Call its ``step()`` once after each optimizer step. The optimizer's groups keep the
        ratio of their LRs. After the schedule's end the last LR is held. It warns where the
        schedule was found with Schedule-Free averaging and the optimizer has none, or another.

        Args:
            optimizer: what :meth:`optimizer` returned; its groups' LRs give the ratios.
            last_epoch: number of the last step taken, from 0; -1 for none.

        Raises:
            ValueError: the optimizer's first group has an LR that is not positive.
        """
        from ray_autolrs.training.replay import ReplayLR  # a schedule itself needs no torch

        self._check_average(optimizer)
        return ReplayLR(optimizer, self, last_epoch)

    def _check_average(self, optimizer: Optimizer) -> None:
        from ray_autolrs.training.averaging.average import averages_itself

        expected = self.averaging
        if expected is None or expected.momentum is None:
            return
        group = optimizer.param_groups[0]
        found = (group.get("average_momentum"), group.get("average_power"))
        if found == (expected.momentum, expected.power):
            return
        if found[0] is not None:
            lacks = f"this one averages with momentum={found[0]}, power={found[1]}"
        elif averages_itself(optimizer):
            return  # as another package does, which has other names for its settings
        else:
            lacks = f"{type(optimizer).__name__} does not average: without, they are too high late"
        warnings.warn(
            f"the schedule's LRs were found with Schedule-Free averaging (momentum="
            f"{expected.momentum}, power={expected.power}), and {lacks}; train with "
            "schedule.optimizer(base)",
            stacklevel=3,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as JSON values."""
        values = {"format": FORMAT, "segments": [segment.to_dict() for segment in self.segments]}
        return values | ({"averaging": self.averaging.to_dict()} if self.averaging else {})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LRSchedule:
        """Build a schedule from :meth:`to_dict`'s result.

        Raises:
            ValueError: it is not such a result, or the constructor refuses its segments.
        """
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"expected an object with format={FORMAT!r}, found {shortened(found)}")
        segments = values.get("segments")
        if not isinstance(segments, list):
            raise ValueError(f"segments={shortened(segments)} must be a list of segments")
        averaging = values.get("averaging")
        return cls(
            tuple(Segment.from_dict(segment) for segment in segments),
            None if averaging is None else FoundWith.from_dict(averaging),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the schedule as JSON. A reader finds the old file or the new one, whole.

        Args:
            path: file to write, in a folder that exists.

        Raises:
            OSError: it cannot be written; an older file stays as it was.
        """
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LRSchedule:
        """Read a schedule that :meth:`save` wrote.

        Raises:
            ValueError: the file does not hold a schedule. The message names the file and
                what was expected.
            OSError: the file cannot be read.
        """
        content = Path(path).read_bytes()
        try:
            return cls.from_dict(json.loads(content))
        except (ValueError, RecursionError) as error:  # as json and UTF-8 decoding raise them
            raise ValueError(
                f"{os.fspath(path)} is not a schedule that LRSchedule.save wrote: {error}"
            ) from error

    def plot(self, path: str | os.PathLike[str] | None = None, *, ax: Axes | None = None) -> Axes:
        """Draw the LR over the steps, on a log axis.

        Args:
            path: image file to write as well; its suffix gives the format.
            ax: axes to draw on; new ones where None.

        Returns:
            The axes drawn on; ``.figure`` is their figure.
        """
        if ax is None:
            ax = new_figure().subplots()
        steps = [step for segment in self.segments for step in _steps_to_plot(segment)]
        ax.plot(steps, [self.lr_at(step) for step in steps])
        ax.set(xlabel="step", ylabel="learning rate", yscale="log")
        if path is not None:
            figure = ax.get_figure(root=True)
            assert figure is not None  # axes are made by a figure
            figure.savefig(os.fspath(path))
        return ax


def _check_segment(place: int, segment: Segment, expected_first_step: int) -> None:
    for name in ("first_step", "last_step"):
        step = getattr(segment, name)
        if not is_integer(step) or abs(step) > MOST_STEPS:
            raise ValueError(
                f"segments[{place}].{name}={shortened(step)} must be an integer of at most "
                f"{MOST_STEPS}"
            )
    if segment.first_step != expected_first_step:
        fault = "leave a gap" if segment.first_step > expected_first_step else "overlap"
        raise ValueError(
            f"segments[{place}].first_step={segment.first_step} must be {expected_first_step}: "
            f"segments must not {fault}"
        )
    if segment.last_step < segment.first_step:
        raise ValueError(
            f"segments[{place}].last_step={segment.last_step} must not be smaller than "
            f"first_step={segment.first_step}"
        )
    if not is_number(segment.peak_lr) or segment.peak_lr <= 0:
        raise ValueError(
            f"segments[{place}].peak_lr={shortened(segment.peak_lr)} must be positive and finite"
        )
    for step in (segment.first_step, segment.last_step):
        try:
            lr = segment.lr_at(step)
        except (ArithmeticError, TypeError) as error:
            raise ValueError(
                f"segments[{place}].shape={shortened(segment.shape)} gives no LR at step {step}: "
                f"{error}"
            ) from error
        if not is_number(lr) or lr < 0:
            raise ValueError(
                f"segments[{place}].shape={shortened(segment.shape)} gives LR {shortened(lr)} at "
                f"step {step}; "
                "it must be finite and not negative"
            )


def _steps_to_plot(segment: Segment) -> list[int]:
    """Return the first and the last step, and evenly spaced ones between them."""
    points = min(segment.steps, PLOT_POINTS_PER_SEGMENT)
    if points == 1:
        return [segment.first_step]
    return [
        segment.first_step + (segment.steps - 1) * point // (points - 1) for point in range(points)
    ]
