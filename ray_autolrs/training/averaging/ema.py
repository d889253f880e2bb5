"""An exponential moving average, with a short memory at first: c_t = 1 - min(decay, t / (t + 9))."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from ray_autolrs.algorithm.field_checks import check_fraction
from ray_autolrs.training.averaging.average import Averaging, copy_into, kept, parameters_of

if TYPE_CHECKING:
    from torch.optim import Optimizer


@final
@dataclass(frozen=True, kw_only=True)
class EMA(Averaging):
    """An exponential moving average of the weights; the optimizer is left alone."""

    decay: float = 0.999
    """Largest weight of the past in a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction(self, "decay")

    def build(self, optimizer: Optimizer) -> MovingAverage:
        """Return the running average."""
        return MovingAverage(optimizer, self.decay)


@final
class MovingAverage:
    """What :class:`EMA` runs: an average beside the optimizer.

    Args:
        optimizer: the task's.
        decay: largest weight of the past in a step.
    """

    def __init__(self, optimizer: Optimizer, decay: float) -> None:
        self.optimizer = optimizer
        self._parameters = parameters_of(optimizer)
        self.tensors = [parameter.detach().clone() for parameter in self._parameters]
        self.updates = 0
        self._decay = decay

    def lr_factors(self, step: int) -> list[float]:
        return [1.0] * len(self.optimizer.param_groups)

    def update(self) -> None:
        import torch  # the settings import without it

        self.updates += 1
        newest = [parameter.detach() for parameter in self._parameters]
        weight = 1 - min(self._decay, self.updates / (self.updates + 9))
        torch._foreach_lerp_(self.tensors, newest, weight)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        with kept(self._parameters):
            copy_into(self._parameters, self.tensors)
            yield
