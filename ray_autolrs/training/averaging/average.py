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
from ray_autolrs.algorithm.schedules.found_with import FoundWith
from ray_autolrs.algorithm.schedules.interpolation import Interpolation

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer
    from typing_extensions import Self


CALIBRATION_BATCHES = 20
"""Batches from which BatchNorm's statistics are taken anew, unless an average says otherwise."""

STEPS = "averaged_steps"
"""What a parameter group of a Schedule-Free optimizer of ours counts, and others lack."""


@dataclass(frozen=True, kw_only=True)
class Averaging(ABC):
    """Which average a run keeps. One's own is a frozen dataclass with a ``build``.

    Raises:
        ValueError: a field is out of its range.
    """

    calibration_batches: int = CALIBRATION_BATCHES
    """Training batches, of one micro-batch each, from which BatchNorm's statistics are taken
    anew at the averaged weights before each look at them."""

    def __post_init__(self) -> None:
        check_integer(self, "calibration_batches", minimum=1)

    @property
    def interpolation(self) -> Interpolation | None:
        """What a forecast knows of gradients taken near the average; None takes them at w_t."""
        return None

    def found_with(self, base_momentum: float | None = None) -> FoundWith:
        """Return what a schedule says of the average that it was found with; resolved.

        Args:
            base_momentum: of the optimizer inside.
        """
        near = self.interpolation
        return FoundWith(
            kind=type(self).__name__,
            momentum=None if near is None else near.momentum,
            power=None if near is None else near.power,
            base_momentum=base_momentum,
        )

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
    def update(self) -> None:
        """Take in the weights after an optimizer step."""

    @abstractmethod
    def swapped_in(self) -> contextlib.AbstractContextManager[None]:
        """Let the parameters hold the average, and afterwards what they held, to the last bit."""


def averages_itself(optimizer: Optimizer) -> bool:
    """Tell whether an optimizer averages the weights in its own steps, as Schedule-Free ones do.

    They have ``train()`` and ``eval()``; Accelerate's wrapper has them around any optimizer.
    """
    inner = optimizer
    while hasattr(inner, "optimizer"):
        inner = inner.optimizer
    has_modes = callable(getattr(inner, "train", None)) and callable(getattr(inner, "eval", None))
    return has_modes or any(STEPS in group for group in optimizer.param_groups)


def refuse_a_second_average(optimizer: Optimizer) -> None:
    """Refuse to average what :func:`averages_itself`.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        f"the optimizer {type(optimizer).__name__} averages the weights itself, as Schedule-Free "
        "ones do, and would be averaged twice; set averaging=None, or use the optimizer that it "
        "is made from, such as AdamW (in TrainingArguments optim='adamw_torch') or SGD"
    )


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
