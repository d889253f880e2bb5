"""Averages of the weights along a run: validation, probes and the final model look at them.

Symbols
    w_t   weights that the optimizer updates, after step t (t from 1)
    x_t   average, x_0 = w_0 (the initial weights)
    c_t   weight of the newest point: x_t = (1 - c_t) x_{t-1} + c_t w_t

schedule_free   Defazio et al. 2024, "The road less scheduled". Gradients are taken at a point
                between w and x, c_t = t^r η² / Σ t^r η² with η the largest LR so far. The
                ``schedulefree`` package's wrapper.
ema             c_t = 1 - min(decay, t / (t + 9)): a short memory at first, then a fixed one.
tail            c_t = (γ + 1) / (γ + t) with γ = 1/tail - 1: nearly the mean of the last part
                ``tail`` of the steps so far, at any time and without a list of them (Shamir &
                Zhang 2013, polynomial-decay averaging).

An average costs memory for one more copy of the weights, and another one while it is looked at.
"""

from __future__ import annotations

import contextlib
import math
import sys
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Protocol, cast, final

import torch
from schedulefree import ScheduleFreeWrapper
from torch import Tensor
from torch.optim import Optimizer, RMSprop

from ray_autolrs.config import AutoLRSConfig


class WeightAverage(Protocol):
    """An average of an optimizer's parameters.

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


@final
class NoAverage:
    """The weights themselves."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.tensors: list[Tensor] = []
        self.updates = 0

    def lr_factors(self, step: int) -> list[float]:
        return [1.0] * len(self.optimizer.param_groups)

    def update(self) -> None:
        return

    def swapped_in(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


@final
class RunningAverage:
    """``"ema"`` and ``"tail"``.

    Args:
        optimizer: the task's.
        ema_decay: largest weight of the past in a step; None for a tail average.
        tail: part of the steps so far that a tail average is about the mean of, in (0, 1].
    """

    def __init__(self, optimizer: Optimizer, *, ema_decay: float | None, tail: float) -> None:
        self.optimizer = optimizer
        self._parameters = _parameters(optimizer)
        self.tensors = [parameter.detach().clone() for parameter in self._parameters]
        self.updates = 0
        self._ema_decay = ema_decay
        self._gamma = 1 / tail - 1

    def lr_factors(self, step: int) -> list[float]:
        return [1.0] * len(self.optimizer.param_groups)

    def update(self) -> None:
        self.updates += 1
        newest = [parameter.detach() for parameter in self._parameters]
        torch._foreach_lerp_(self.tensors, newest, self._newest_weight())

    def swapped_in(self) -> contextlib.AbstractContextManager[None]:
        return _holding(self._parameters, self.tensors)

    def _newest_weight(self) -> float:
        if self._ema_decay is not None:
            return 1 - min(self._ema_decay, self.updates / (self.updates + 9))
        return (self._gamma + 1) / (self._gamma + self.updates)


@final
class ScheduleFree:
    """Schedule-Free averaging around any optimizer.

    Momentum of the optimizer's own is turned off, as the package recommends: interpolating
    towards the average takes its place. SGD with momentum μ moves the weights 1/(1 - μ) times as
    far as without, so its LRs are multiplied with that: a search interval means the same with
    and without averaging. Adam's averages are normalised and need no factor.

    RMSprop divides by the root of a mean of squared gradients that begins at zero: its first step
    is 1/√(1 - α) times as long as its LR says, ten times by default. An average keeps early steps
    for long, and short probes are made of them, so that the LR of step t (from 0) is multiplied
    with √(1 - α^(t + 1)), which is Adam's correction for the same bias (Kingma & Ba 2015,
    section 3).

    Args:
        optimizer: the task's.
        momentum: weight of the average in the point where gradients are taken (β).
        power: weight of a step in the average, as a power of its number (r).
    """

    def __init__(self, optimizer: Optimizer, *, momentum: float, power: float = 0.0) -> None:
        self._lr_factors = [_turn_momentum_off(group) for group in optimizer.param_groups]
        self._smoothings = [
            group["alpha"] if isinstance(optimizer, RMSprop) else 0.0
            for group in optimizer.param_groups
        ]
        for group in optimizer.param_groups:
            group["weight_sum"] = sys.float_info.min  # the package divides by it: an LR may be 0
        self._wrapper = _Wrapper(optimizer, momentum, power)
        self._parameters = _parameters(optimizer)
        # The wrapper would make them in its first step, when a snapshot has been taken already.
        self.tensors = [parameter.detach().clone() for parameter in self._parameters]
        for parameter, tensor in zip(self._parameters, self.tensors, strict=True):
            self._wrapper.state[parameter]["z"] = tensor
        self._wrapper.train_mode = True
        self.optimizer = cast("Optimizer", self._wrapper)
        self.updates = 0

    def lr_factors(self, step: int) -> list[float]:
        return [
            factor * math.sqrt(1 - smoothing ** (step + 1))
            for factor, smoothing in zip(self._lr_factors, self._smoothings, strict=True)
        ]

    def update(self) -> None:
        return

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        kept = [parameter.detach().clone() for parameter in self._parameters]
        self._wrapper.eval()
        try:
            yield
        finally:
            # Its train() would compute the weights again, and round.
            _copy(kept, self._parameters)
            self._wrapper.train_mode = True


class _Wrapper(ScheduleFreeWrapper):  # type: ignore[misc]
    """The package's wrapper with a state of its own, and for tensors of any layout.

    Adam and others build a parameter's state in their first step if they find it empty, and the
    package keeps its tensors there. Its swap looks at tensors as bytes, which those in
    channels-last order do not allow.
    """

    def __init__(self, base: Optimizer, momentum: float, power: float) -> None:
        super().__init__(base, momentum=momentum, r=power)
        self._own_state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)

    @staticmethod
    def swap(x: Tensor, y: Tensor) -> None:
        kept = x.clone()
        x.copy_(y)
        y.copy_(kept)

    @property
    def state(self) -> defaultdict[Tensor, dict[str, Any]]:
        return self._own_state


def average_of(
    optimizer: Optimizer, *, config: AutoLRSConfig, global_batch_size: int
) -> WeightAverage:
    """Return the average that a run's settings ask for, at the task's batch size in samples."""
    match config.averaging:
        case "none":
            return NoAverage(optimizer)
        case "schedule_free":
            momentum = config.resolved_averaging_momentum(global_batch_size)
            return ScheduleFree(optimizer, momentum=momentum, power=config.averaging_power)
        case "ema":
            return RunningAverage(optimizer, ema_decay=config.ema_decay, tail=config.averaging_tail)
        case "tail":
            return RunningAverage(optimizer, ema_decay=None, tail=config.averaging_tail)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _turn_momentum_off(group: dict[str, Any]) -> float:
    """Take a parameter group's momentum away, and return the factor that its LR lacks then."""
    momentum, dampening = group.get("momentum", 0.0), group.get("dampening", 0.0)
    for name, off in (("momentum", 0.0), ("dampening", 0.0), ("nesterov", False)):
        if name in group:
            group[name] = off
    if "betas" in group:
        group["betas"] = (0.0, *group["betas"][1:])
    return float((1 - dampening) / (1 - momentum))


@contextlib.contextmanager
def _holding(parameters: list[Tensor], values: list[Tensor]) -> Iterator[None]:
    kept = [parameter.detach().clone() for parameter in parameters]
    _copy(values, parameters)
    try:
        yield
    finally:
        _copy(kept, parameters)


def _copy(values: list[Tensor], parameters: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
