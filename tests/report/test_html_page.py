from __future__ import annotations

import base64
import hashlib
import re
import time

import numpy as np
import pytest

from ray_autolrs.report.charts.axes import Axis, spans_decades, without_far
from ray_autolrs.report.charts.chart import line, mark, thinned
from ray_autolrs.report.html_page import html_page
from ray_autolrs.report.run_view import RunView
from ray_autolrs.report.wall_time import spans, wall_time
from tests.report.pages import Page
from tests.report.test_report import LOG, apply, choice, probe

VIEW = RunView("a run", LOG)


def timed(records, gpus=2):
    """Give each record a time: a second after the work of the one before."""
    now, done = 1000.0, []
    for record in [{"kind": "session", "gpus": gpus} | SESSION, *records]:
        now += 1 + record.get("wall_s", 0.0)
        done.append({"lane": "all workers"} | record | {"time": now})
    return done


SESSION = {"workers": 2, "versions": {"torch": "2.14.1"}, "platform": "Linux"}


def test_an_old_log_without_times_and_explanations_has_a_page():
    page = Page(html_page(VIEW))
    assert page.texts("p", "headline") == [
        "LRs from 0.1 to 0.2, found with 3 probes in 2 stages; the saved model has validation "
        "loss 0.75 after 200 steps."
    ]
    assert page.texts("span", "status") == ["finished"]


def test_the_page_says_what_each_stage_promised_and_came_to():
    cells = Page(html_page(VIEW)).texts("td")
    said = ["lowest forecast", "training", "0.5 ± 0.01", "1", "13", "100", "10 s"]
    assert cells[10:20] == ["stage 1", "100", "0.1", *said]
    said = ["lowest forecast", "validation", "0.5 ± 0.01", "0.75", "10", "100", "9 s"]
    assert cells[20:30] == ["stage 2", "100", "0.2", *said]


def test_a_run_under_way_says_so_and_reloads_itself():
    views = [VIEW.records[:count] for count in (1, 2, 3, 5, 8)]
    for records in views:
        page = Page(html_page(RunView("begun", records), refresh_s=2.5))
        assert page.texts("span", "status") == ["not finished"]
        assert page.attributes("data-refresh-s") == ["2.5"]
    assert Page(html_page(VIEW)).attributes("data-refresh-s") == []


def test_what_a_user_typed_is_escaped_everywhere():
    evil = "</script><script>alert('1')</script><img src=x onerror=y>\"&"
    record = apply(1)
    record["evaluations"] = [[200, "loss", 0.75], [200, evil, 0.5]]
    records = timed([probe(1, 0), choice(1) | {"reason": evil}, record | {"lane": evil}])
    stored = {"settings": {"type": evil, "search": {"type": evil, evil: evil}}}
    html = html_page(RunView(evil, records, stored))
    page = Page(html)
    assert "<script>alert" not in html
    assert "<img" not in html
    assert len(page.texts("script")) == 1
    assert page.texts("h1")[0].startswith(evil)
    assert f"validation {evil}" in page.figures()
    assert f"search.{evil}" in page.texts("dt")
    assert evil in page.texts("text", "lane")


def test_nothing_is_loaded_and_only_the_page_s_own_style_and_script_may_run():
    html = html_page(VIEW)
    page = Page(html)
    assert "://" not in html
    assert page.attributes("href") == ["data:,"]
    assert not {*page.attributes("src"), *page.attributes("style"), *page.attributes("onclick")}
    policy = page.attributes("content")[0]
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_seconds_by_the_clock_and_gpu_hours():
    two_lanes = [
        probe(1, 0) | {"lane": "a"},
        probe(1, 1) | {"lane": "b"},
        choice(1),
        apply(1),
    ]
    records = timed(two_lanes)
    records[2]["time"] = records[1]["time"] + 0.5  # b ran from half of a's second on
    took = wall_time(records)
    assert (took.probe_s, took.apply_s) == (1.5, 4.0)
    assert took.held_s == records[-1]["time"] - records[0]["time"] == 10.0
    assert took.other_s == 4.5
    assert took.gpu_hours == pytest.approx(2 * 10.0 / 3600)
    assert [(span.lane, span.begin_s) for span in spans(records)][:2] == [("a", 1.0), ("b", 1.5)]


def test_time_between_two_sessions_is_nobody_s():
    first, second = timed([probe(1, 0)]), timed([apply(1)], gpus=4)
    for record in second:
        record["time"] += 10_000
    took = wall_time([*first, *second])
    assert took.held_s == 2.0 + 5.0
    assert (took.gpus, took.gpu_hours) == (4, (2 * 2.0 + 4 * 5.0) / 3600)


def test_a_log_of_no_sessions_knows_no_gpus():
    assert wall_time([LOG[0] | {"time": 5.0}]).gpu_hours is None


def test_shades_rank_a_stage_s_promises():
    probes = [probe(1, i) | {"forecast": loss} for i, loss in enumerate([3.0, 1.0, 2.0])]
    (stage,) = RunView("", [*probes, probe(1, 3, diverged=True)]).stages
    assert [stage.shade(each, 6) for each in stage.probes] == [5, 0, 2, None]


@pytest.mark.parametrize(
    ("values", "is_log", "labels"),
    [
        ([0, 2000], False, ["0", "500", "1000", "1500", "2000"]),
        ([0, 1_000_000], False, ["0", "200k", "400k", "600k", "800k", "1M"]),
        ([1e-3, 1.0], True, ["0.001", "0.01", "0.1", "1"]),
        ([0.02, 0.3], True, ["0.02", "0.05", "0.1", "0.2"]),
        ([1e-12, 1.0], True, ["1e-12", "1e-10", "1e-8", "1e-6", "0.0001", "0.01", "1"]),
        ([3.0, 3.0], False, ["2.6", "2.8", "3", "3.2", "3.4"]),
        ([], False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
    ],
)
def test_axes_are_labelled_with_round_numbers(values, is_log, labels):
    axis = Axis.over("", values, is_log=is_log, margin=0.0)
    assert [tick.label for tick in axis.ticks] == labels
    assert all(-0.01 <= tick.place <= 100.01 for tick in axis.ticks)


def test_lines_have_gaps_where_nothing_is_finite_and_leave_the_chart_where_nothing_is_positive():
    x, y = Axis.over("", [0, 4], margin=0.0), Axis.over("", [1, 100], is_log=True, margin=0.0)
    assert line(x, y, [0, 1, 2, 3, 4], [1, 10, np.nan, 100, 0]) == (
        "M0 1000L250 500M750 0L1000 2000"
    )


def test_marks_beyond_an_axis_lie_on_its_edge():
    axis = Axis.over("", [0, 1], margin=0.0)
    inside, beyond = (
        mark(axis, axis, (0.5, 0.25), "dot", "k", ""),
        mark(axis, axis, (0.5, 7.0), "dot", "k", ""),
    )
    assert (inside.x, inside.y, inside.kind) == (50, 75, "k")
    assert (beyond.x, beyond.y, beyond.kind) == (50, 0, "k outside")
    assert without_far([-17.0, 0.5, 3.0], [0.0, 1.0]) == [0.5]
    assert (spans_decades([1, 30]), spans_decades([0, 30])) == (True, False)


def test_a_thinned_series_keeps_means_and_extremes():
    middles, mean, low, high = thinned(np.array([1.0, 3.0, np.nan, 5.0, np.inf, np.nan]), 3)
    assert middles.tolist() == [0.5, 2.5, 4.5]
    assert mean[:2].tolist() == [2.0, 5.0]
    assert (low[0], high[0]) == (1.0, 3.0)
    assert np.isnan([mean[2], low[2], high[2]]).all()
    assert [part.tolist() for part in thinned(np.zeros(0), 3)] == [[], [], [], []]


def test_a_long_run_s_page_is_made_fast_and_stays_small():
    """A million steps take 2 s; here a tenth of it, by the processor's clock."""
    records = []
    for stage in range(1, 101):
        losses = (1.0 / np.arange(1, 1001)).tolist()
        probes = [probe(stage, i, lr=0.01 * (i + 1)) for i in range(10)]
        records += [each | {"training_losses": losses[:100], "steps": 100} for each in probes]
        begin = 1000 * (stage - 1)
        segment = {"first_step": begin, "last_step": begin + 999, "peak_lr": 0.1}
        records.append(choice(stage))
        records.append(apply(stage) | {"segment": segment, "training_losses": losses})
    begin_s = time.process_time()
    html = html_page(RunView("long", records))
    assert time.process_time() - begin_s < 5.0
    assert len(html) < 3e6
    assert "The last 40 stages with a search; the 60 before them" in html
