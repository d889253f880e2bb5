"""What an average of the weights is: the value that a user passes, and what runs in training.

It imports without torch, as every value of the settings does.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ray_autolrs.algorithm.field_checks import check_integer
from ray_autolrs.algorithm.forecast.noisy_quadratic import Interpolation

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class Averaging(ABC):
    """Which average a run keeps. One's own is a frozen dataclass with a ``build``.

    Raises:
        ValueError: a field is out of its range.
    """

    calibration_batches: int = 20
    """Training batches, of one micro-batch each, from which BatchNorm's statistics are taken
    anew at the averaged weights before each look at them."""

    def __post_init__(self) -> None:
        check_integer(self, "calibration_batches", minimum=1)

    @property
    def interpolation(self) -> Interpolation | None:
        """What a forecast knows of gradients taken near the average; None takes them at w_t."""
        return None

    def resolve(self, global_batch_size: int) -> Self:
        """Return the value with every field filled in that depends on the batch, in samples."""
        return self

    @abstractmethod
    def build(self, optimizer: Optimizer) -> WeightAverage:
        """Return the running average of an optimizer's parameters."""


class WeightAverage(Protocol):
    """A running average of an optimizer's parameters.

    Attributes:
        optimizer: what takes the steps: the task's own, or a wrapper around it.
        tensors: what a snapshot must hold, beside the optimizer's state.
        updates: number of points that the average holds; a snapshot holds it, too.
    """

    optimizer: Optimizer
    tensors: list[Tensor]
    updates: int

    @abstractmethod
    def lr_factors(self, step: int) -> list[float]:
        """Return what each parameter group's LR is multiplied with at a step, from 0."""

    @abstractmethod
    def update(self) -> None:
        """Take in the weights after an optimizer step."""

    @abstractmethod
    def swapped_in(self) -> contextlib.AbstractContextManager[None]:
        """Let the parameters hold the average, and afterwards what they held, to the last bit."""


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters of all groups, in their order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@contextlib.contextmanager
def kept(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Give the parameters back what they held, at the end and to the last bit."""
    values = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        copy_into(parameters, values)


def copy_into(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into parameters, in place."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.detach().copy_(value)
