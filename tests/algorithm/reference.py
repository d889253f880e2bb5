"""The factors of other people's schedules, step by step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ray_autolrs.algorithm.schedules.shapes import Shape

PEAK = 0.5


def reference_factors(make: Callable[[torch.optim.Optimizer], LRScheduler], steps: int) -> Any:
    """Return the LR that each of the steps trains with, divided by the peak LR."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=PEAK, momentum=0.9)
    scheduler = make(optimizer)
    lrs = []
    for _ in range(steps):
        lrs.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        with warnings.catch_warnings():
            # torch's recursive schedulers warn about being stepped past their end.
            warnings.simplefilter("ignore", UserWarning)
            scheduler.step()
    return [lr / PEAK for lr in lrs]


def factors(shape: Shape, steps: int) -> list[float]:
    return [shape.factor(step) for step in range(steps)]
