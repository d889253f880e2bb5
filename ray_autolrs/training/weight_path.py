"""How straight the way of the weights is, from the first step on.

Symbols
    z_t   weights that the optimizer moves, after t steps
    d     directness: |z_n - z_0| / √(Σ |z_t - z_{t-1}|²)

n steps of a random walk come √n steps far: d is about 1. Steps that all point the same way come
n steps far: d is √n. Where d is well above 1 by the end of the warm-up the run has not yet met
what limits its learning rate, gradient noise or curvature.

Source: ours. The distance over the root of the squares is what DoG (Ivgi et al. 2023) takes for
the learning rate of SGD; of steps in place of gradients it needs no unit, whatever the optimizer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

from ray_autolrs.training.averaging.average import parameters_of

MOST_TENSORS = 64
MOST_ELEMENTS = 4096
"""Of a tensor: distances are those of a sample, which costs two small kernels a step."""


class WeightPath:
    """Follows a sample of the weights; it waits for the device when it is asked, not in a step.

    Args:
        optimizer: of the weights, before its first step.

    Attributes:
        tensors: what a snapshot must hold: the sample at the start and after the latest step,
            and the sum of the squares.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        trained = [weights for weights in parameters_of(optimizer) if weights.requires_grad]
        self._followed = trained[:: math.ceil(len(trained) / MOST_TENSORS)]
        start = self._sample()
        squares = torch.zeros((), dtype=torch.float64, device=start.device)
        self.tensors = [start, start.clone(), squares]

    def take_in(self) -> None:
        """Take in the weights after a step."""
        _, latest, squares = self.tensors
        now = self._sample()
        squares.add_(torch.linalg.vector_norm(now - latest).double().square())
        latest.copy_(now)

    def directness(self) -> float | None:
        """Return d; None before the weights have moved, or once they are not finite."""
        start, latest, squares = self.tensors
        distance = torch.linalg.vector_norm(latest - start).double()
        found = float(distance / squares.sqrt())
        return found if math.isfinite(found) else None

    def _sample(self) -> Tensor:
        parts: list[Tensor] = []
        for parameter in self._followed:
            # Schedule-Free optimizers keep z beside the parameters.
            weights = self._optimizer.state.get(parameter, {}).get("z", parameter).detach()
            every = max(1, weights.numel() // MOST_ELEMENTS)
            parts.append(weights.reshape(-1)[::every].float())
        return torch.cat(parts)
