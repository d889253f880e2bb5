"""A run as numbers over time, for a monitoring system: which metrics there are, and their values.

How they are published is the caller's: on Ray, ``cluster/ray_metrics.py`` hands them to Ray's own
metrics, which Prometheus scrapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ray_autolrs.algorithm.stages.messages import Apply, Finish, Probe
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.report.costs import count_costs
from ray_autolrs.sinks.sink import Sink, Status


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric.

    Attributes:
        name: without a prefix.
        description: what a person reads beside it.
        kind: a gauge tells a state, a histogram counts what was observed by its size.
        boundaries: upper ends of a histogram's buckets.
    """

    name: str
    description: str
    kind: Literal["gauge", "histogram"] = "gauge"
    boundaries: tuple[float, ...] = ()


METRICS = (
    MetricSpec("autolrs_stage", "Stage that is searched or applied; 0 is the warm-up."),
    MetricSpec("autolrs_lr", "Learning rate of the step that is taken."),
    MetricSpec("autolrs_loss", "Latest loss of what is run: of a probe, or of the applied model."),
    MetricSpec("autolrs_applied_steps", "Steps that the trained model has taken."),
    MetricSpec("autolrs_probe_steps", "Steps that probes have taken, those run ahead included."),
    MetricSpec("autolrs_lost_steps", "Steps lost to divergence and to restarts."),
    MetricSpec("autolrs_lanes_busy", "Lanes that run a probe by themselves."),
    MetricSpec("autolrs_search_seconds", "How long the latest search took."),
    MetricSpec(
        "autolrs_probe_seconds",
        "How long probes take.",
        "histogram",
        (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0),
    ),
)
"""Every metric that a run has."""


Metric = Callable[[float], object]
"""Takes a metric's values: a gauge keeps the last one, a histogram counts it."""


class MetricsSink(Sink):
    """Publishes :data:`METRICS` of a run.

    Args:
        publisher: makes a metric; it is called once for each, when the run starts.
    """

    def __init__(self, publisher: Callable[[MetricSpec], Metric]) -> None:
        self._publisher = publisher
        self._metrics: Mapping[str, Metric] = {}
        self._records: list[Record] = []

    def start(self, past: list[Record], total_steps: int | None) -> None:
        self._records = [*past]
        self._metrics = {spec.name: self._publisher(spec) for spec in METRICS}
        self._tell_costs()

    def record(self, record: Record) -> None:
        self._records.append(record)
        self._tell_costs()
        # One that was run ahead and then asked for is told twice, and took its time once.
        if record["kind"] in ("probe", "foreseen") and not record.get("foreseen", False):
            self._tell("autolrs_probe_seconds", record["wall_s"])
        if record["kind"] == "choice" and "search_s" in record:
            self._tell("autolrs_search_seconds", record["search_s"])

    def progress(self, status: Status) -> None:
        self._tell("autolrs_lanes_busy", status.lanes_busy)
        match status.command:
            case Apply() | Probe() as command:
                first, last = command.segment.first_step, command.segment.last_step
                step = min(first + status.steps_done, last)
                self._tell("autolrs_stage", command.stage)
                self._tell("autolrs_lr", command.segment.lr_at(step))
                self._tell("autolrs_loss", status.loss)
            case Finish() | None:
                pass

    def _tell_costs(self) -> None:
        costs = count_costs(self._records)
        self._tell("autolrs_applied_steps", costs.apply_steps)
        self._tell("autolrs_probe_steps", costs.probe_steps)
        self._tell("autolrs_lost_steps", costs.lost_steps)

    def _tell(self, name: str, value: float) -> None:
        if math.isfinite(value):
            self._metrics[name](float(value))
