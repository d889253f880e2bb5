"""Optimizers that torch has not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """Steps by the sign of a mix of gradient and momentum (Chen et al. 2023, algorithm 2).

    Args:
        params: to train.
        lr: length of a step in each weight.
        betas: share of the momentum in the step, and in the next momentum.
        weight_decay: decoupled, times the LR.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step; a closure is not called."""
        for group in self.param_groups:
            now, later = group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                momentum = state.setdefault("momentum", torch.zeros_like(weight))
                direction = momentum.lerp(weight.grad, 1 - now).sign_()
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction, alpha=-group["lr"])
                momentum.lerp_(weight.grad, 1 - later)
