"""No average: what is trained is what is looked at."""

from __future__ import annotations

import contextlib
from typing import final

from torch import Tensor
from torch.optim import Optimizer


@final
class NoAverage:
    """The weights themselves."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.tensors: list[Tensor] = []
        self.updates = 0

    def update(self) -> None:
        return

    def swapped_in(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()
