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
"""Of a tensor: distances are those of a sample, which costs four small kernels a step."""

_NO_STATE: dict[str, Tensor] = {}


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
        self._addresses: list[int] = []
        self._views: list[Tensor] = []
        self._find_weights()
        start = torch.cat([view.float() for view in self._views])
        self._spare = torch.empty_like(start)
        squares = torch.zeros((), dtype=torch.float64, device=start.device)
        self.tensors = [start, start.clone(), squares]

    def take_in(self) -> None:
        """Take in the weights after a step."""
        latest, now = self.tensors[1], self._spare
        self._find_weights()
        torch.cat(self._views, out=now)
        latest.sub_(now)
        self.tensors[2].add_(torch.dot(latest, latest))
        self.tensors[1], self._spare = now, latest

    def let_go(self) -> None:
        """Keep no weights alive: they are about to be replaced, and memory may be short."""
        self._addresses, self._views = [], []

    def directness(self) -> float | None:
        """Return d; None before the weights have moved, or once they are not finite."""
        start, latest, squares = self.tensors
        distance = torch.linalg.vector_norm(latest - start).double()
        found = float(distance / squares.sqrt())
        return found if math.isfinite(found) else None

    def _find_weights(self) -> None:
        """Look again where a sample lies, if weights are elsewhere than at the last look."""
        state = self._optimizer.state
        # Schedule-Free optimizers keep z beside the parameters, from their first step on.
        weights = [state.get(p, _NO_STATE).get("z", p) for p in self._followed]
        addresses = [tensor.data_ptr() for tensor in weights]
        if addresses == self._addresses:
            return
        self._addresses = addresses
        # They keep the memory that they lie in, so that no other tensor gets an address of theirs.
        self._views = [_sample_of(tensor.detach()) for tensor in weights]


def _sample_of(weights: Tensor) -> Tensor:
    """Return some elements of a tensor, in its own memory."""
    every = max(1, weights.numel() // MOST_ELEMENTS)
    in_memory = sorted(range(weights.ndim), key=weights.stride, reverse=True)
    return weights.permute(in_memory).view(-1)[::every]
