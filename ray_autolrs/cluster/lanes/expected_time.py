"""How long a stage's search is expected to take, by whom: what lanes are chosen by.

The unit is one probe that all W workers run together. A lane that is alone keeps the global batch:
it takes the W shares of it one after the other, and needs W units for a probe. What the workers
lose to exchanging gradients is left out, so that lanes are never favoured by a guess: with a slow
network they may pay earlier than is said here.

With rounds(n) probes' time for a search with n probes at once, the workers together need rounds(1),
and n lanes W * rounds(n). For ten probes that can all run at once (rounds(n) = ceil(10 / n)):

    ========================  =======  =======  =======  =======
    lanes                     W = 1    W = 2    W = 4    W = 8
    ========================  =======  =======  =======  =======
    all workers together      10       10       10       10
    the workers, each alone   10       10       12       16
    5, actors included        2        4        8        16
    10, actors included       1        2        4        8
    ========================  =======  =======  =======  =======
"""

from __future__ import annotations

from collections.abc import Callable

Rounds = Callable[[int], int]
"""From lanes to how many probes' time a search takes; see ``SearchStrategy.expected_rounds``."""

FIRST_START_S = 30.0
"""How long actors need to start, until it was measured. Two idle cores need 5 s, a node minutes."""

IDLE_S = 10.0
"""Actors are not given back for less than this, beside the time that they need to start twice."""


def together_time(rounds: Rounds) -> float:
    """Return the time of a search by all workers together, one probe after the other."""
    return float(rounds(1))


def lone_time(rounds: Rounds, num_workers: int, lanes: int) -> float:
    """Return the time of a search by lanes that each take the whole global batch."""
    return float(rounds(lanes) * num_workers)


def lanes_pay(rounds: Rounds, num_workers: int, lanes: int) -> bool:
    """Return whether so many lanes end a search sooner than the workers together.

    >>> ten_at_once = lambda lanes: -(-10 // lanes)
    >>> lanes_pay(ten_at_once, 4, lanes=4), lanes_pay(ten_at_once, 4, lanes=5)
    (False, True)
    """
    return lanes > 1 and lone_time(rounds, num_workers, lanes) < together_time(rounds)


def fewest_lanes(rounds: Rounds, most: int) -> int:
    """Return the smallest number of lanes that is as fast as ``most`` of them.

    >>> fewest_lanes(lambda lanes: -(-10 // lanes), most=8)
    5
    """
    return next(lanes for lanes in range(1, most + 1) if rounds(lanes) == rounds(most))


def wants_actors(next_search_s: float, start_s: float, *, held: bool) -> bool:
    """Return whether actors are to be held now, so that they are there when a search begins.

    Args:
        next_search_s: seconds until a search that is expected; 0 during one, infinite if there is
            none in sight.
        start_s: seconds from asking for actors until they wait for a probe.
        held: whether they are held now.
    """
    if held:
        return next_search_s <= 2 * start_s + IDLE_S
    return next_search_s <= start_s
