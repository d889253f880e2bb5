from __future__ import annotations

import pytest

from ray_autolrs import AutoLRSConfig
from ray_autolrs.cluster.lane_choice import choose_lanes


def choose(available, *, limits=None, num_workers=2, worker=None, **settings):
    settings = {"probe_lanes": "auto"} | settings
    config = AutoLRSConfig.paper(total_steps=1000, lr_min=1e-3, lr_max=1.0, **settings)
    limits = limits or available
    chosen = choose_lanes(
        config,
        num_workers,
        worker or {"CPU": 1.0},
        available,
        limits,
        autoscales=limits != available,
    )
    return chosen.kind, chosen.actors, chosen.parallel_probes


@pytest.mark.parametrize(
    ("available", "options", "expected"),
    [
        # (kind, actors, probes at once)
        ({"CPU": 2.0}, {}, ("workers", 0, 2)),
        ({"CPU": 2.0}, {"num_workers": 1}, ("actors", 1, 2)),
        ({"CPU": 1.0}, {"num_workers": 1}, ("sequential", 0, 1)),
        ({"CPU": 5.0}, {}, ("actors", 3, 5)),
        ({"CPU": 64.0}, {}, ("actors", 8, 10)),
        ({"CPU": 64.0}, {"probe_actors": 3}, ("actors", 3, 5)),
        ({"CPU": 64.0}, {"probe_actors": 0}, ("workers", 0, 2)),
        ({"CPU": 64.0}, {"probe_actors": 20, "probe_lanes": "actors"}, ("actors", 20, 10)),
        ({"CPU": 64.0}, {"probe_lanes": "sequential"}, ("sequential", 0, 1)),
        ({"CPU": 64.0}, {"probe_lanes": "workers"}, ("workers", 0, 2)),
        ({"CPU": 64.0}, {"probe_lanes": "workers", "num_workers": 16}, ("workers", 0, 10)),
        ({"CPU": 2.5}, {"resources_per_probe_actor": {"CPU": 0.1}}, ("actors", 5, 7)),
        (
            {"CPU": 64.0, "GPU": 4.0},
            {"worker": {"CPU": 1.0, "GPU": 1.0}},
            ("actors", 2, 4),
        ),
        (
            {"CPU": 64.0, "GPU": 4.0},
            {
                "worker": {"CPU": 1.0, "GPU": 1.0},
                "resources_per_probe_actor": {"CPU": 1, "GPU": 0.5},
            },
            ("actors", 4, 6),
        ),
        # The default's first search has six probes that do not wait for each other.
        ({"CPU": 64.0}, {"search": "halving"}, ("actors", 4, 6)),
        # What an autoscaler may bring counts, and is asked for.
        ({"CPU": 2.0}, {"limits": {"CPU": 6.0}}, ("actors", 4, 6)),
        ({"CPU": 2.0}, {"limits": {"CPU": 600.0}}, ("actors", 8, 10)),
    ],
)
def test_choice(available, options, expected):
    assert choose(available, **options) == expected


def test_more_actors_than_can_ever_be_are_refused():
    with pytest.raises(ValueError, match=r"probe_actors=4 of 1 CPU each do not fit: .* can hold 3"):
        choose({"CPU": 5.0}, probe_actors=4)
    assert choose({"CPU": 5.0}, limits={"CPU": 6.0}, probe_actors=4)[1] == 4
