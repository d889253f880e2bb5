"""The weights of the run's best validation so far: what overfits later has not lost them."""

from __future__ import annotations

import math

from torch import nn

from ray_autolrs.training.sharding import State, state_on_cpu


class BestWeights:
    """A module's ``state_dict`` at the lowest validation loss, on the CPU.

    Of a sharded module every worker calls :meth:`offer`, and rank 0 gets the state.

    Args:
        to_beat: nothing is copied unless its loss is lower.

    Attributes:
        step: applied steps done then; -1 before the first.
        loss: the validation loss.
        state: the module's ``state_dict``.
    """

    def __init__(self, to_beat: float = math.inf) -> None:
        self.step = -1
        self.loss = to_beat
        self.state: State = {}

    def offer(self, module: nn.Module, step: int, loss: float) -> None:
        """Copy the module's state if the loss is lower than before; of equals the first stays."""
        if not loss < self.loss:
            return
        self.step, self.loss = step, loss
        self.state = state_on_cpu(module)

    def take(self, other: BestWeights) -> None:
        """Take over another's weights if they are better."""
        if other.loss < self.loss:
            self.step, self.loss, self.state = other.step, other.loss, other.state
