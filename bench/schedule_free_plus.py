"""ScheduleFree+ (Defazio 2026, arXiv 2605.19095), as a rival: its formulas, in our own words.

Symbols
    z, x, y   weights that are stepped, their average, and the point of the gradient
    η_t, β_t  learning rate (LR), and how near y is to x

    y = (1 - β_t) z + β_t x; the optimizer, its inner momentum kept, steps z by the gradient at y;
    x = z during two warm-ups, and then their average with weights η_t²; β_t goes from 0.9 to
    0.965, evenly in log(1 - β). Weight decay is scaled by η_t² rather than η_t.

    With the Polyak step η_t = m f(y) / G, with G a running average of the gradient's L1 norm,
    which is what an Adam-like step of length 1 in each weight gains, or for SGD of the squared L2
    norm; m, the LR's place, is 1 by the book and tuned around it.

What the paper leaves open is ours: two warm-ups of 5%, and an average of G over about 50 steps.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.averaging.average import (
    Averaging,
    WeightAverage,
    copy_into,
    kept,
    parameters_of,
)

FIRST_BETA, LAST_BETA = 0.9, 0.965
NORM_SMOOTHING = 0.98


@dataclass
class LastLoss:
    """Holds the training loss of the step that is being taken."""

    loss: Tensor | None = None


def telling_its_loss(task: TrainingTask, last: LastLoss) -> TrainingTask:
    """Return a copy of a task that puts each training loss into ``last``."""
    original = task.loss

    def loss(model: nn.Module, batch: Any) -> Tensor:
        found = original(model, batch)
        if torch.is_grad_enabled():
            last.loss = found.detach()
        return found

    copied = copy.copy(task)
    copied.loss = loss  # type: ignore[method-assign]
    return copied


@final
@dataclass(frozen=True, kw_only=True)
class ScheduleFreePlus(Averaging):
    """The setting.

    Attributes:
        steps: of the run, over which β rises.
        equal_steps: steps in which x = z.
        last_loss: for the Polyak step; None is without.
    """

    steps: int
    equal_steps: int
    last_loss: LastLoss | None = field(default=None, compare=False)

    def build(self, optimizer: Optimizer) -> WeightAverage:
        return PlusAverage(optimizer, self)


@final
class PlusAverage:
    """The average and its hooks before and after each step of the optimizer."""

    def __init__(self, optimizer: Optimizer, settings: ScheduleFreePlus) -> None:
        self.optimizer = optimizer
        self.updates = 0
        self._settings = settings
        self._parameters = parameters_of(optimizer)
        self._z = [parameter.detach().clone() for parameter in self._parameters]
        self._x = [parameter.detach().clone() for parameter in self._parameters]
        self.tensors = [*self._z, *self._x]
        self._weight_decays = [group.get("weight_decay", 0.0) for group in optimizer.param_groups]
        self._largest_lr = self._weight_sum = self._norm = 0.0
        optimizer.register_step_pre_hook(lambda *_: self._before_step())

    def lr_factors(self, step: int) -> list[float]:
        return [1.0] * len(self.optimizer.param_groups)

    def update(self) -> None:
        """Take in z, which the optimizer has stepped, and put y into the parameters."""
        self.updates += 1
        copy_into(self._z, [parameter.detach() for parameter in self._parameters])
        newest = 1.0
        if self.updates > self._settings.equal_steps:
            weight = float(self.optimizer.param_groups[0]["lr"]) ** 2
            self._weight_sum += weight
            newest = weight / self._weight_sum if self._weight_sum > 0 else 1.0
        torch._foreach_lerp_(self._x, self._z, newest)
        y = torch._foreach_lerp(self._z, self._x, self._beta())
        copy_into(self._parameters, y)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        with kept(self._parameters):
            copy_into(self._parameters, self._x)
            yield

    def _beta(self) -> float:
        part = min(1.0, self.updates / self._settings.steps)
        return 1 - math.exp((1 - part) * math.log(1 - FIRST_BETA) + part * math.log(1 - LAST_BETA))

    def _before_step(self) -> None:
        if self._settings.last_loss is not None:
            self._set_polyak_step(self._settings.last_loss)
        groups = self.optimizer.param_groups
        self._largest_lr = max(self._largest_lr, float(groups[0]["lr"]))
        for group, decay in zip(groups, self._weight_decays, strict=True):
            if "weight_decay" in group and self._largest_lr > 0:
                group["weight_decay"] = decay * float(groups[0]["lr"]) / self._largest_lr
        copy_into(self._parameters, self._z)

    def _set_polyak_step(self, last: LastLoss) -> None:
        assert last.loss is not None, "the task must tell its loss"
        gradients = [weight.grad for weight in self._parameters if weight.grad is not None]
        is_sgd = isinstance(self.optimizer, SGD)
        norms = torch.stack(torch._foreach_norm(gradients, 2 if is_sgd else 1))
        norm = float(norms.square().sum() if is_sgd else norms.sum())
        self._norm = NORM_SMOOTHING * self._norm + (1 - NORM_SMOOTHING) * norm
        mean = self._norm / (1 - NORM_SMOOTHING ** (self.updates + 1))
        length = float(last.loss) / mean if mean > 0 and math.isfinite(mean) else 0.0
        for group in self.optimizer.param_groups:
            group["lr"] *= length
