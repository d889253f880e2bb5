from __future__ import annotations

import pytest

from ray_autolrs.report.lane_timeline import lane_timeline


def ran(lane, index, start, end, kind="probe", **marks):
    times = {"time": 100.0 + end, "wall_s": float(end - start)}
    return {"kind": kind, "stage": 2, "index": index, "lane": lane, **times, **marks}


def test_each_probe_is_drawn_where_its_lane_ran_it():
    records = [
        {"kind": "apply", "stage": 1},
        ran("actor-10", 0, 0, 4),
        ran("actor-2", 1, 0, 4),
        ran("worker-0", None, 1, 5, kind="foreseen"),
        # It is asked for at last: that takes no lane's time.
        ran("worker-0", 3, 1, 5, foreseen=True),
        ran("actor-2", 9, 4, 8),
    ]
    assert lane_timeline(records, 2, width=9).splitlines() == [
        "stage 2: 4 probes in 8 s, 3 at once at most",
        "actor-2  |222200000|",
        "actor-10 |11111    |",
        "worker-0 | +++++   |",
    ]


def test_a_stage_that_was_not_searched_has_none():
    with pytest.raises(ValueError, match="stage=3 has no probes in the log"):
        lane_timeline([ran("actor-0", 0, 0, 4)], 3)
