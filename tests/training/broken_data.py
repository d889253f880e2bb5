"""A task whose data is bad at chosen steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from ray_autolrs.training.epoch_order import epoch_order
from tests.training.toy import ToyTask, points

SAMPLES, BAD_STEP = 480, 13


def sample_at(step: int, place: int = 0) -> int:
    """Return the index of the sample at a place of a step's batch."""
    return epoch_order(SAMPLES, 0, step * ToyTask.global_batch_size + place, 1)[0]


class Kinked(torch.autograd.Function):
    """The identity, whose gradient is nan where the number is 7."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, marked: Tensor) -> Tensor:
        ctx.save_for_backward(marked)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (marked,) = ctx.saved_tensors
        return torch.where(marked, torch.nan, grads[0]), None


class Broken(ToyTask):
    """One sample of a step is bad in the way that ``how`` names."""

    how = "input"
    bad_steps = (BAD_STEP,)
    bad_number = math.nan
    bad_place = 0

    def train_dataset(self) -> Dataset[Any]:
        x, y = points(SAMPLES).tensors
        for step in self.bad_steps:
            x[sample_at(step, self.bad_place), 0] = self.bad_number if self.how == "input" else 7.0
        return TensorDataset(x, y)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        marked = batch[0][:, 0] == 7.0
        out = model(batch[0])
        if self.how == "gradient":
            out = Kinked.apply(out, marked[:, None])
        loss = nn.functional.cross_entropy(out, batch[1])
        return loss - torch.log(1 - marked.any().double()) if self.how == "loss" else loss


class Leaner(Broken):
    """Bad steps may be skipped."""

    on_bad_batch = "skip"


class Ignoring(ToyTask):
    """Labels of -100 do not count. All of some micro-batches are such."""

    ignored_steps: tuple[int, ...] = (3, 4, 12)
    ignored = 4

    def train_dataset(self) -> Dataset[Any]:
        x, y = points(SAMPLES).tensors
        for step in self.ignored_steps:
            y[epoch_order(SAMPLES, 0, step * self.global_batch_size, self.ignored)] = -100
        return TensorDataset(x, y)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], ignore_index=-100)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}
