"""Metrics of a run on a real Ray, as Prometheus scrapes them."""

from __future__ import annotations

import time
import urllib.request

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Probe
from ray_autolrs.cluster.ray_metrics import PREFIX, ray_metrics
from ray_autolrs.sinks.metrics import METRICS
from ray_autolrs.sinks.sink import Status
from tests.algorithm.made_up_runs import logged, run_plan, u_shaped

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def scraped(port: int) -> dict[str, float]:
    """The endpoint's samples of our run, by name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        sample.name: sample.value
        for family in families
        for sample in family.samples
        if sample.labels.get("run") == "scraped" and "le" not in sample.labels
    }


@pytest.mark.usefixtures("ray_cluster")
def test_the_endpoint_of_a_node_serves_every_metric_of_a_run():
    sink = ray_metrics("scraped")
    sink.start([], 300)
    _, records = logged(run_plan(total_steps=300), u_shaped(0.05))
    for record in records:
        sink.record(record)
    sink.record({"kind": "choice", "search_s": 1.5})
    sink.progress(status_of(next(record for record in records if record["kind"] == "probe")))
    (node,) = (node for node in ray.nodes() if node["Alive"])  # another test loses one
    wanted = {PREFIX + spec.name for spec in METRICS if spec.kind == "gauge"}
    wanted |= {f"{PREFIX}autolrs_probe_seconds_count", f"{PREFIX}autolrs_probe_seconds_sum"}
    deadline_s = time.monotonic() + 120  # Ray's processes tell theirs every 10 s.
    found: dict[str, float] = {}
    while not wanted <= found.keys():
        assert time.monotonic() < deadline_s, wanted - found.keys()
        time.sleep(0.5)
        found = scraped(node["MetricsExportPort"])
    assert found["ray_autolrs_applied_steps"] == 300
    assert found["ray_autolrs_search_seconds"] == 1.5
    assert found["ray_autolrs_probe_seconds_count"] == sum(r["kind"] == "probe" for r in records)


def status_of(probe) -> Status:
    segment = Segment.from_dict(probe["segment"])
    return Status(Probe(probe["stage"], probe["index"], segment), 1, 0.5, lanes_busy=3)
