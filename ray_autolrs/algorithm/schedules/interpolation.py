"""What a search knows of Schedule-Free averaging."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interpolation:
    """Gradients that are taken between the optimizer's weights and their average.

    Attributes:
        momentum: how near to the average they are taken (β).
        power: weight of a step in the average, as a power of its number (r).
    """

    momentum: float
    power: float
