"""A search that is led astray: what wins a wrong learning rate (LR) back is measured with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ray_autolrs import Bracket
from ray_autolrs.algorithm.search.strategy import Choice, Observation, StageContext


@dataclasses.dataclass(frozen=True, kw_only=True)
class Misled(Bracket):
    """The default's search, which multiplies what it has found before the first step."""

    factor: float

    def choose(
        self, context: StageContext, told: Sequence[Observation], rejected: Sequence[float]
    ) -> Choice | None:
        choice = super().choose(context, told, rejected)
        if context.past or choice is None:
            return choice
        return Choice(self.factor * choice.peak_lr)
