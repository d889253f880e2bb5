"""The average that an optimizer keeps itself: ours, or a Schedule-Free optimizer of the user's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast, final

from torch import Tensor
from torch.optim import Optimizer

from ray_autolrs.algorithm.schedules.interpolation import Interpolation
from ray_autolrs.training.averaging.average import STEPS, kept, parameters_of
from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree


@final
class SelfAveraged:
    """Looks at the average by the optimizer's own ``eval()``.

    Args:
        optimizer: has ``train()`` and ``eval()``; a snapshot of its state holds the average.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.tensors: list[Tensor] = []
        self.updates = 0
        self._modes: Any = cast("Any", optimizer)
        self._modes.train()

    @property
    def interpolation(self) -> Interpolation | None:
        """What is known of the average: of ours its momentum and its power."""
        group = self.optimizer.param_groups[0]
        if STEPS not in group:
            return None
        return Interpolation(group["average_momentum"], group["average_power"])

    def update(self) -> None:
        return

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        # The package's own way back, train(), would compute the weights again, and round.
        own_way_back = isinstance(self.optimizer, ScheduleFree)
        with contextlib.nullcontext() if own_way_back else kept(parameters_of(self.optimizer)):
            self._modes.eval()
            try:
                yield
            finally:
                self._modes.train()
