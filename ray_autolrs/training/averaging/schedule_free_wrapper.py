"""Schedule-Free averaging around any optimizer: the ``schedulefree`` package's wrapper."""

from __future__ import annotations

import contextlib
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast, final

from schedulefree import ScheduleFreeWrapper
from torch import Tensor
from torch.optim import Optimizer, RMSprop

from ray_autolrs.training.averaging.average import kept, parameters_of


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
        self._parameters = parameters_of(optimizer)
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
        # The wrapper's own way back, train(), would compute the weights again, and round.
        with kept(self._parameters):
            self._wrapper.eval()
            try:
                yield
            finally:
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
        old = x.clone()
        x.copy_(y)
        y.copy_(old)

    @property
    def state(self) -> defaultdict[Tensor, dict[str, Any]]:
        return self._own_state


def _turn_momentum_off(group: dict[str, Any]) -> float:
    """Take a parameter group's momentum away, and return the factor that its LR lacks then."""
    momentum, dampening = group.get("momentum", 0.0), group.get("dampening", 0.0)
    for name, off in (("momentum", 0.0), ("dampening", 0.0), ("nesterov", False)):
        if name in group:
            group[name] = off
    if "betas" in group:
        group["betas"] = (0.0, *group["betas"][1:])
    return float((1 - dampening) / (1 - momentum))
