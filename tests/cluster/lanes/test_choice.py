from __future__ import annotations

import pytest
from torch import nn

from ray_autolrs import Bracket, GaussianProcess
from ray_autolrs.cluster.lanes.actors import Actors
from ray_autolrs.cluster.lanes.choice import check_lanes, choose_lanes, lane_kinds, possible_lane
from ray_autolrs.cluster.lanes.sequential import Sequential
from ray_autolrs.cluster.lanes.workers import Workers
from ray_autolrs.lanes import WITHOUT_ACTORS, Lanes


def choose(available, *, limits=None, num_workers=2, worker=None, search=None, **settings):
    limits = limits or available
    chosen = choose_lanes(
        Lanes(**settings),
        search or GaussianProcess(),
        num_workers,
        worker or {"CPU": 1.0},
        available,
        limits,
        autoscales=limits != available,
    )
    return chosen.lane.name, chosen.actors, chosen.parallel_probes


@pytest.mark.parametrize(
    ("available", "options", "expected"),
    [
        # (kind, actors, probes at once)
        # Ten probes by two workers, each alone, take as long as by both together.
        ({"CPU": 2.0}, {}, ("sequential", 0, 1)),
        ({"CPU": 2.0}, {"num_workers": 1}, ("actors", 1, 2)),
        ({"CPU": 1.0}, {"num_workers": 1}, ("sequential", 0, 1)),
        ({"CPU": 5.0}, {}, ("actors", 3, 5)),
        ({"CPU": 64.0}, {}, ("actors", 8, 10)),
        # Three rounds of four lone workers are longer than ten probes, and so are two of eight.
        ({"CPU": 4.0}, {"num_workers": 4}, ("sequential", 0, 1)),
        ({"CPU": 9.0}, {"num_workers": 8}, ("sequential", 0, 1)),
        ({"CPU": 10.0}, {"num_workers": 8}, ("actors", 2, 10)),
        # A sixth to ninth lane would not end the search sooner.
        ({"CPU": 9.0}, {}, ("actors", 3, 5)),
        ({"CPU": 64.0}, {"actors": 3}, ("actors", 3, 5)),
        ({"CPU": 64.0}, {"actors": 0}, ("sequential", 0, 1)),
        ({"CPU": 64.0}, {"actors": 20, "kind": "actors"}, ("actors", 20, 10)),
        ({"CPU": 64.0}, {"kind": "sequential"}, ("sequential", 0, 1)),
        ({"CPU": 64.0}, {"kind": "workers"}, ("workers", 0, 2)),
        ({"CPU": 64.0}, {"kind": "workers", "num_workers": 16}, ("workers", 0, 10)),
        ({"CPU": 2.5}, {"resources": {"CPU": 0.1}}, ("actors", 3, 5)),
        (
            {"CPU": 64.0, "GPU": 4.0},
            {"worker": {"CPU": 1.0, "GPU": 1.0}},
            ("actors", 2, 4),
        ),
        (
            {"CPU": 64.0, "GPU": 4.0},
            {"worker": {"CPU": 1.0, "GPU": 1.0}, "resources": {"CPU": 1, "GPU": 0.5}},
            ("actors", 3, 5),
        ),
        ({"CPU": 64.0}, {"search": GaussianProcess(probes=3)}, ("actors", 1, 3)),
        ({"CPU": 64.0}, {"search": GaussianProcess(probes=2)}, ("sequential", 0, 1)),
        # What an autoscaler may bring counts, and is asked for.
        ({"CPU": 2.0}, {"limits": {"CPU": 6.0}}, ("actors", 3, 5)),
        ({"CPU": 2.0}, {"limits": {"CPU": 600.0}}, ("actors", 8, 10)),
        # The default asks for two at once, and lanes run ahead; no node starts for one search.
        ({"CPU": 64.0}, {"search": Bracket(), "num_workers": 1}, ("actors", 5, 2)),
        ({"CPU": 64.0}, {"search": Bracket(), "num_workers": 2}, ("actors", 4, 2)),
        ({"CPU": 64.0}, {"search": Bracket(), "num_workers": 4}, ("sequential", 0, 1)),
        (
            {"CPU": 1.0},
            {"search": Bracket(), "num_workers": 1, "limits": {"CPU": 600.0}},
            ("sequential", 0, 1),
        ),
    ],
)
def test_choice(available, options, expected):
    assert choose(available, **options) == expected


def test_more_actors_than_can_ever_be_are_refused():
    with pytest.raises(ValueError, match=r"lanes.actors=4 of 1 CPU each do not fit: .* can hold 3"):
        choose({"CPU": 5.0}, actors=4)
    assert choose({"CPU": 5.0}, limits={"CPU": 6.0}, actors=4)[1] == 4


def test_kinds_are_found_and_know_themselves_whether_they_have_actors():
    kinds = lane_kinds()
    assert {"sequential": Sequential, "workers": Workers, "actors": Actors}.items() <= kinds.items()
    assert not any(kinds[name].has_actors for name in WITHOUT_ACTORS)


def test_a_kind_that_there_is_not_is_refused():
    check_lanes(Lanes(kind="auto", actors=2))
    check_lanes(Lanes(kind="actors", actors=2))
    with pytest.raises(ValueError, match=r"lanes.kind='worker' must be 'auto' or one of actors, "):
        check_lanes(Lanes(kind="worker"))


PLAIN, SYNCED = nn.BatchNorm1d(2), nn.Sequential(nn.SyncBatchNorm(2))


@pytest.mark.parametrize("lane", [Sequential(), Workers(), Actors()])
def test_plain_model_can_be_probed_by_any_lane(lane):
    assert possible_lane(lane, Lanes(), PLAIN) is lane


def test_model_that_needs_all_workers_is_probed_by_all_of_them(caplog):
    assert possible_lane(Workers(), Lanes(), SYNCED) == Sequential()
    assert "probes run one after the other, on all workers: '0' is a SyncBatchNorm" in caplog.text


@pytest.mark.parametrize("lane", [Workers(), Actors()])
def test_lanes_that_were_asked_for_and_cannot_be_are_refused(lane):
    with pytest.raises(ValueError, match=rf"lanes.kind='{lane.name}' needs workers that can train"):
        possible_lane(lane, Lanes(kind=lane.name), SYNCED)
