"""An exponential moving average, short at first: c_t = 1 - min(decay, t / (t + 9))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from ray_autolrs.algorithm.field_checks import check_fraction
from ray_autolrs.training.averaging.average import Averaging

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from ray_autolrs.training.averaging.running_average import RunningAverage


@final
@dataclass(frozen=True, kw_only=True)
class EMA(Averaging):
    """An exponential moving average of the weights; the optimizer is left alone."""

    decay: float = 0.999
    """Largest weight of the past in a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self, "decay")

    def build(self, optimizer: Optimizer) -> RunningAverage:
        from ray_autolrs.training.averaging.running_average import RunningAverage

        return RunningAverage(optimizer, lambda t: 1 - min(self.decay, t / (t + 9)))
