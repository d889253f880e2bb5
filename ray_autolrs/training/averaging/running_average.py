"""An average beside the optimizer, which it leaves alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import final

import torch
from torch.optim import Optimizer

from ray_autolrs.training.averaging.average import copy_into, kept, parameters_of
from ray_autolrs.training.averaging.points import local


@final
class RunningAverage:
    """x_t = (1 - c_t) x_{t-1} + c_t w_t, with any weights c_t.

    Args:
        optimizer: the task's.
        newest_weight: gives c_t, in [0, 1], for t from 1.
    """

    def __init__(self, optimizer: Optimizer, newest_weight: Callable[[int], float]) -> None:
        self.optimizer = optimizer
        self._parameters = parameters_of(optimizer)
        self.tensors = [parameter.detach().clone() for parameter in self._parameters]
        self.updates = 0
        self._newest_weight = newest_weight

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        averages = [local(tensor) for tensor in self.tensors]
        newest = [local(parameter) for parameter in self._parameters]
        torch._foreach_lerp_(averages, newest, self._newest_weight(self.updates))

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        with kept(self._parameters):
            copy_into(self._parameters, self.tensors)
            yield
