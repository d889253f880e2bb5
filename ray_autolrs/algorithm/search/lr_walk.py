"""The places of a walk downhill over a grid of LRs, from the two in its middle.

:mod:`ray_autolrs.algorithm.search.bracket` says what for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, zip_longest

LARGEST_FACTOR = math.sqrt(10)
"""Largest factor between two LRs that are tried one after the other."""

GUESS_PLACES = 6
"""LRs to each side of the two around a guess: it may be off by a factor of 300."""

MARGIN = 0.02
"""Part of the loss gained by which a higher LR must win. Ours (measured)."""


def lr_grid(lr: float | tuple[float, float]) -> list[float]:
    """Return the LRs that may be tried, in order; the first two to try are in the middle.

    >>> [round(lr, 3) for lr in lr_grid((0.001, 1.0))]
    [0.002, 0.006, 0.018, 0.056, 0.178, 0.562]
    """
    if isinstance(lr, float | int):
        # A little more, so that a guess on the grid counts as one for all that it is rounded.
        below = math.floor(math.log(lr) / math.log(LARGEST_FACTOR) + 1e-6)
        places = range(below - GUESS_PLACES, below + 2 + GUESS_PLACES)
        return [10.0 ** (place / 2) for place in places]
    low, high = math.log(lr[0]), math.log(lr[1])
    # A little less, so that three decades, whose quotient is a rounded number, have six.
    count = max(3, math.ceil(math.log(lr[1] / lr[0]) / math.log(LARGEST_FACTOR) - 1e-6))
    return [math.exp(low + (place + 0.5) / count * (high - low)) for place in range(count)]


def middle(grid: Sequence[float]) -> int:
    """Return the first of the two places that are tried first."""
    return (len(grid) - 1) // 2


def preferred_place(losses: Mapping[int, float], initial_loss: float) -> int:
    """Return the best place, or the one that is reached from it by steps down that cost little.

    >>> preferred_place({2: 1.01, 3: 1.0}, initial_loss=2.0), preferred_place({2: 1.1, 3: 1.0}, 2.0)
    (2, 3)
    """
    place = min(losses, key=lambda place: (losses[place], place))
    gained = initial_loss - losses[place]
    margin = MARGIN * gained if gained > 0 else 0.0
    while place - 1 in losses and losses[place - 1] <= losses[place] + margin:
        place -= 1
    return place


def next_place(losses: Mapping[int, float], initial_loss: float, count: int) -> int | None:
    """Return the place to try next, or None once the preferred one has neighbours or is at the end.

    Where every LR diverged so far, it is the next smaller one.

    >>> next_place({2: 1.0, 3: 2.0}, 3.0, 6), next_place({2: 2.0, 3: 1.0}, 3.0, 6)
    (1, 4)
    >>> next_place({1: 3.0, 2: 1.0, 3: 2.0}, 3.0, 6)
    """
    preferred = preferred_place(losses, initial_loss)
    if preferred == min(losses) and preferred > 0:
        return preferred - 1
    if preferred == max(losses) and preferred < count - 1 and losses[preferred] < math.inf:
        return preferred + 1
    return None


def foreseen_places(tried: Collection[int], first: int, count: int) -> list[int]:
    """Return the untried places that the walk may still go to, the nearest first.

    It turns to one side once it has seen the two in the middle, ``first`` and the next one.

    >>> foreseen_places([2, 3], 2, 6), foreseen_places([2, 3, 1], 2, 6)
    ([1, 4, 0, 5], [0])
    """
    low, high = min(tried), max(tried)
    below = range(low - 1, -1, -1) if high <= first + 1 else ()
    above = range(high + 1, count) if low >= first else ()
    both = chain.from_iterable(zip_longest(below, above))
    return [place for place in both if place is not None]
