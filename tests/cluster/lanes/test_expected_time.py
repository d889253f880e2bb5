"""What lanes are chosen by, against searches that are played out probe by probe."""

from __future__ import annotations

import heapq
import math

import pytest

from ray_autolrs import Bracket, GaussianProcess
from ray_autolrs.cluster.lanes.choice import choose_lanes
from ray_autolrs.cluster.lanes.expected_time import wants_actors
from ray_autolrs.lanes import Lanes

PROBES = 10


def played_out(lanes: int, probe_s: float) -> float:
    """When the last of ten probes ends, each given to the lane that is free first."""
    free_s = [0.0] * lanes
    for _ in range(PROBES):
        heapq.heappush(free_s, heapq.heappop(free_s) + probe_s)
    return max(free_s)


@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("at_once", range(1, 11))
@pytest.mark.parametrize("num_workers", range(1, 9))
def test_auto_is_never_slower_and_within_a_twentieth_of_the_best(num_workers, at_once, share):
    """``share``: part of a micro-batch's time that is in proportion to a worker's samples."""
    together_s = (1 - share) + share / num_workers
    # A lone lane takes the micro-batches of all workers, one after the other.
    alone_s = num_workers * together_s
    chosen, lanes = choose(num_workers, at_once)
    options = {
        "sequential": played_out(1, together_s),
        "workers": played_out(num_workers, alone_s),
        "actors": played_out(max(num_workers, at_once), alone_s),
    }
    took_s = played_out(lanes, alone_s) if chosen == "actors" else options[chosen]
    assert took_s <= options["sequential"]
    assert took_s <= 1.05 * min(options.values())


@pytest.mark.parametrize("at_once", range(1, 11))
@pytest.mark.parametrize("num_workers", range(1, 9))
def test_auto_is_never_slower_where_workers_lose_time_to_each_other(num_workers, at_once):
    chosen, lanes = choose(num_workers, at_once)
    slowed_s = 1.3
    if chosen == "actors":
        assert played_out(lanes, num_workers) < played_out(1, slowed_s)


def choose(num_workers: int, at_once: int) -> tuple[str, int]:
    """The kind that is chosen where so many lanes fit, and its lanes."""
    cluster = {"CPU": float(max(num_workers, at_once))}
    chosen = choose_lanes(
        Lanes(), GaussianProcess(), num_workers, {"CPU": 1.0}, cluster, cluster, autoscales=False
    )
    return chosen.lane.name, num_workers + chosen.actors


@pytest.mark.parametrize("search", [Bracket(), GaussianProcess()])
def test_more_lanes_never_take_more_rounds(search):
    rounds = [search.expected_rounds(1, lanes) for lanes in range(1, 20)]
    assert rounds == sorted(rounds, reverse=True)
    assert rounds[-1] == 1


def test_actors_are_there_when_a_search_begins_and_gone_when_none_is_in_sight():
    assert wants_actors(0.0, 30.0, held=False)
    assert wants_actors(29.0, 30.0, held=False)
    assert not wants_actors(60.0, 30.0, held=False)
    assert wants_actors(60.0, 30.0, held=True)  # to give them back would not be worth it
    assert not wants_actors(71.0, 30.0, held=True)
    assert not wants_actors(math.inf, 30.0, held=True)
