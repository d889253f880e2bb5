"""Schedule-Free averaging (Defazio et al. 2024, "The road less scheduled"), as a setting.

Gradients are taken at a point between w and x, and c_t = t^r η² / Σ t^r η² with η the largest LR
so far.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from ray_autolrs.algorithm.field_checks import check, check_fraction, is_number
from ray_autolrs.algorithm.schedules.interpolation import Interpolation
from ray_autolrs.training.averaging.average import Averaging

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from ray_autolrs.training.averaging.self_averaged import SelfAveraged

MOST_LOOKAHEAD = 0.2
"""Largest 1 - β that a batch size leads to. Ours (measured)."""


@final
@dataclass(frozen=True, kw_only=True)
class ScheduleFreeAverage(Averaging):
    """Schedule-Free averaging around the task's optimizer, whose own momentum is turned off."""

    momentum: float | None = None
    """How near to the average gradients are taken (β). None is 0.8 for batches of 32 samples and
    fewer, and grows with larger ones: see :meth:`resolve`. The package's is 0.9."""

    power: float = 2.0
    """Weight of a step in the average, as a power of its number (r): 2 is a mean of about the
    last half of the steps so far, which lags less than that of all where the loss falls fast
    late. Ours (measured); the package's is 0, which weights all steps after the warm-up alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self, "momentum", optional=True)
        holds = is_number(self.power) and self.power >= 0
        check(self, "power", holds, "must be finite and not negative")

    @property
    def interpolation(self) -> Interpolation:
        """What a forecast knows of the average."""
        return Interpolation(self._resolved_momentum, self.power)

    def resolve(self, global_batch_size: int) -> ScheduleFreeAverage:
        """Return the value with its momentum: 1 - β = 0.2 √(32 / batch), within 0.05 and 0.2.

        The larger the batch, the less noise is left to average and the nearer to the average
        gradients are wanted. Ours, from batches of 8 to 256 samples (bench/NOTES.md).

        >>> sizes = (8, 32, 128, 2048)
        >>> [round(ScheduleFreeAverage().resolve(size).momentum, 3) for size in sizes]
        [0.8, 0.8, 0.9, 0.95]
        """
        if self.momentum is not None:
            return self
        lookahead = MOST_LOOKAHEAD * math.sqrt(32 / global_batch_size)
        return dataclasses.replace(self, momentum=1 - min(MOST_LOOKAHEAD, max(0.05, lookahead)))

    def build(self, optimizer: Optimizer) -> SelfAveraged:
        """Return the average, whose optimizer takes the steps.

        Raises:
            ValueError: the momentum is None.
        """
        from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree
        from ray_autolrs.training.averaging.self_averaged import SelfAveraged

        momentum = self._resolved_momentum
        return SelfAveraged(ScheduleFree(optimizer, momentum=momentum, power=self.power))

    @property
    def _resolved_momentum(self) -> float:
        rule = "depends on the batch: give a number, or call resolve(global_batch_size) first"
        check(self, "momentum", self.momentum is not None, rule)
        assert self.momentum is not None
        return self.momentum
