"""The metrics of a run on Ray: every node's metrics endpoint serves them to Prometheus."""

from __future__ import annotations

from ray.util.metrics import Gauge, Histogram

from ray_autolrs.sinks.metrics import Metric, MetricSpec, MetricsSink

PREFIX = "ray_"
"""Ray puts it before the name of each metric that it serves."""


def ray_metrics(run: str) -> MetricsSink:
    """Return a sink that publishes a run's metrics with the label ``run``."""

    def publish(spec: MetricSpec) -> Metric:
        if spec.kind == "histogram":
            histogram = Histogram(spec.name, spec.description, [*spec.boundaries], ("run",))
            histogram.set_default_tags({"run": run})
            return lambda value: histogram.observe(value)
        gauge = Gauge(spec.name, spec.description, ("run",))
        gauge.set_default_tags({"run": run})
        return lambda value: gauge.set(value)

    return MetricsSink(publish)
