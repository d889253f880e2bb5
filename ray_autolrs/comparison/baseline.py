"""A schedule that people tune by hand: linear warm-up, then a shape; only its peak is open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import LinearWarmup, Shape, check, check_integer
from ray_autolrs.schedule import LRSchedule

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """A shape after a linear warm-up, both factors of a peak learning rate (LR).

    The warm-up ends at the factor that the shape begins with: 1 for a decay, the lowest LR of
    the first cycle for CLR. :mod:`ray_autolrs.comparison.catalogue` builds the known ones.

    Attributes:
        total_steps: optimizer steps of the run, warm-up included.
        warmup_steps: steps before the shape begins, 0 for none.
        shape: factor of the steps from ``warmup_steps`` on, addressed by the run's steps.

    Raises:
        ValueError: a field is out of its range, or the shape begins at 0 after a warm-up.

    >>> from ray_autolrs.algorithm.schedules.decays import Linear
    >>> baseline = Baseline(total_steps=6, warmup_steps=2, shape=Linear(first_step=2, steps=4))
    >>> [baseline.factor(step) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    >>> baseline.schedule(peak_lr=0.1).lr_at(4)
    0.05
    """

    total_steps: int
    warmup_steps: int = 0
    shape: Shape

    def __post_init__(self) -> None:
        check_integer(self, "total_steps", minimum=1)
        check_integer(self, "warmup_steps", minimum=0)
        rule = f"must be smaller than total_steps={self.total_steps}; warm up for less"
        check(self, "warmup_steps", self.warmup_steps < self.total_steps, rule)
        rule = (
            f"needs a shape that begins above 0, and {self.shape!r} does not; "
            "raise the shape's lowest factor, or leave the warm-up out"
        )
        check(self, "warmup_steps", self.warmup_steps == 0 or self._first_factor > 0, rule)

    @property
    def name(self) -> str:
        """The shape's name."""
        return self.shape.name

    def factor(self, step: int) -> float:
        """Return the part of the peak LR, in [0, 1], that ``step`` trains with."""
        if step < self.warmup_steps:
            return self._first_factor * LinearWarmup(0, self.warmup_steps).factor(step)
        return self.shape.factor(step)

    def schedule(self, peak_lr: float) -> LRSchedule:
        """Return the schedule of a run with this peak LR, to save, plot or replay.

        Raises:
            ValueError: ``peak_lr`` is not positive and finite.
        """
        body = Segment(self.warmup_steps, self.total_steps - 1, peak_lr, self.shape)
        if self.warmup_steps == 0:
            return LRSchedule((body,))
        warmup = LinearWarmup(0, self.warmup_steps)
        first_lr = peak_lr * self._first_factor
        return LRSchedule((Segment(0, self.warmup_steps - 1, first_lr, warmup), body))

    def scheduler(
        self, optimizer: Optimizer, peak_lr: float | None = None, last_epoch: int = -1
    ) -> LRScheduler:
        """Return a torch scheduler; call its ``step()`` once after each optimizer step.

        The optimizer's groups keep the ratio of their LRs. After the run's end the last LR is
        held.

        Args:
            optimizer: any ``torch.optim`` optimizer.
            peak_lr: LR of the first group at the peak. None takes the one that the optimizer
                was built with, as torch's own schedulers do.
            last_epoch: number of the last step taken, from 0; -1 for none.

        Raises:
            ValueError: ``peak_lr``, or the LR of the optimizer's first group, is not positive.
        """
        if peak_lr is None:
            group = optimizer.param_groups[0]
            peak_lr = float(group.get("initial_lr", group["lr"]))
        return self.schedule(peak_lr).scheduler(optimizer, last_epoch)

    @property
    def _first_factor(self) -> float:
        return self.shape.factor(self.warmup_steps)
