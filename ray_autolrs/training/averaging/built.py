"""Which average of an optimizer's weights is kept: its own, the one that is asked for, or none."""

from __future__ import annotations

from torch.optim import Optimizer

from ray_autolrs.training.averaging.average import (
    Averaging,
    WeightAverage,
    averages_itself,
    refuse_a_second_average,
)
from ray_autolrs.training.averaging.no_average import NoAverage
from ray_autolrs.training.averaging.self_averaged import SelfAveraged


def build_average(averaging: Averaging | None, optimizer: Optimizer) -> WeightAverage:
    """Return the average.

    Raises:
        ValueError: the optimizer averages in its own steps, and another average is asked for.
    """
    if not averages_itself(optimizer):
        return NoAverage(optimizer) if averaging is None else averaging.build(optimizer)
    if averaging is not None:
        refuse_a_second_average(optimizer)
    return SelfAveraged(optimizer)
