"""The ``schedulefree`` package's wrapper around any optimizer: what ours is compared with."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from schedulefree import ScheduleFreeWrapper
from torch import Tensor


class PackageWrapper(ScheduleFreeWrapper):  # type: ignore[misc]
    """The package's, with a state of its own, and for tensors of any layout.

    Adam and others build a parameter's state in their first step if they find it empty, and the
    package keeps its tensors there. Its swap looks at tensors as bytes, which those in
    channels-last order do not allow.
    """

    def __init__(self, base: torch.optim.Optimizer, momentum: float, power: float) -> None:
        super().__init__(base, momentum=momentum, r=power)
        self._own_state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        for group in base.param_groups:
            for parameter in group["params"]:
                self._own_state[parameter]["z"] = parameter.detach().clone()
        self.train()

    @staticmethod
    def swap(x: Tensor, y: Tensor) -> None:
        old = x.clone()
        x.copy_(y)
        y.copy_(old)

    @property
    def state(self) -> defaultdict[Tensor, dict[str, Any]]:
        return self._own_state
