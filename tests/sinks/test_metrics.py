"""What a run tells a monitoring system, and the dashboard that shows it."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from pathlib import Path

import pytest

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.algorithm.stages.messages import Apply, Finish, Probe
from ray_autolrs.sinks.metrics import METRICS, MetricsSink
from ray_autolrs.sinks.sink import Status
from tests.algorithm.made_up_runs import logged, run_plan, u_shaped

DASHBOARD = Path(__file__).parents[2] / "kubernetes" / "grafana_dashboard.json"


@pytest.fixture
def told():
    """Each metric's values, and the sink that tells them; a run of 300 steps has ended."""
    values: dict[str, list[float]] = defaultdict(list)
    sink = MetricsSink(lambda spec: values[spec.name].append)
    sink.start([], 300)
    _, records = logged(run_plan(total_steps=300), u_shaped(0.05))
    for record in records:
        sink.record(record)
    return values, sink, records


def test_steps_and_probes_are_those_of_the_log(told):
    values, _, records = told
    probes = [record for record in records if record["kind"] == "probe"]
    assert values["autolrs_applied_steps"][-1] == 300
    assert values["autolrs_probe_steps"][-1] == sum(probe["steps"] for probe in probes) > 0
    assert values["autolrs_lost_steps"][-1] == 0
    assert values["autolrs_probe_seconds"] == [probe["wall_s"] for probe in probes]


def test_a_probe_that_was_run_ahead_counts_once(told):
    values, sink, records = told
    probe = next(record for record in records if record["kind"] == "probe")
    before = values["autolrs_probe_steps"][-1], len(values["autolrs_probe_seconds"])
    sink.record(probe | {"kind": "foreseen"})
    sink.record(probe | {"foreseen": True})
    after = values["autolrs_probe_steps"][-1], len(values["autolrs_probe_seconds"])
    assert after == (before[0] + probe["steps"], before[1] + 1)


def test_progress_tells_stage_lr_and_loss(told):
    values, sink, _ = told
    segment = Segment(0, 9, 0.1, WarmupStableDecay(0, None, 5, 0))
    sink.progress(Status(Probe(1, 0, segment), steps_done=3, loss=0.7, lanes_busy=4))
    latest = {name: values[f"autolrs_{name}"][-1] for name in ("stage", "lr", "loss", "lanes_busy")}
    assert latest == {"stage": 1, "lr": segment.lr_at(3), "loss": 0.7, "lanes_busy": 4}
    # Past the last step there is no LR, and a loss that is not finite is no number to plot.
    sink.progress(Status(Apply(2, segment), segment.steps, math.nan))
    assert values["autolrs_lr"][-1] == segment.lr_at(segment.last_step)
    assert values["autolrs_loss"] == [0.7]
    sink.progress(Status(Finish()))
    sink.progress(Status())
    assert values["autolrs_lanes_busy"][-1] == 0


def test_each_expression_of_the_dashboard_names_a_metric_that_there_is():
    served = {f"ray_{spec.name}" for spec in METRICS}
    served |= {f"ray_{spec.name}_bucket" for spec in METRICS if spec.kind == "histogram"}
    board = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    expressions += [
        each["query"] for each in board["templating"]["list"] if each["type"] == "query"
    ]
    used = [set(re.findall(r"\bray_\w+", expression)) for expression in expressions]
    assert all(used)
    assert set().union(*used) <= served
    # And each metric is shown.
    assert {name.removesuffix("_bucket") for names in used for name in names} == {
        f"ray_{spec.name}" for spec in METRICS
    }
    assert all("$run" in expression for expression in expressions[:-1])
