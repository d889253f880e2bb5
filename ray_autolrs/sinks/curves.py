"""What a run tells, as numbers with names over steps: for services that draw curves.

======================  =====================================================================
over applied steps
``train/loss``          training loss of the step before, where the losses were looked at
``train/lr``            LR that it was made with, with the factor that averaging brings
``validation/NAME``     validation mean at an evaluation
``choice/lr``           peak LR that a stage is applied with; ``choice/forecast`` its loss then
``cost/NAME``           steps and seconds so far, as :class:`ray_autolrs.report.costs.Costs` has
``lane/NAME/seconds``   seconds in probes of each lane
over probes, from 1
``probe/lr``            peak LR; with ``steps``, ``seconds``, ``diverged`` and the last ``loss``
``probe/forecast``      loss that it promises at the stage's end, and ``probe/forecast_std``
======================  =====================================================================

A value that is unknown or not finite is left out.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.report.costs import count_costs
from ray_autolrs.report.lines import describe
from ray_autolrs.sinks.sink import Measurement, Sink

PROBE_PREFIX = "probe/"
"""Begins the names of numbers over probes; all others are over applied steps."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number with a name.

    Attributes:
        name: as the module's table has it.
        value: finite.
        step: number of applied steps or, for a probe, number of the probe.
    """

    name: str
    value: float
    step: int


class CurveSink(Sink):
    """Turns what it is told into numbers, and writes them."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._measured: set[int] = set()
        self._step = 0

    @abstractmethod
    def open(self) -> None:
        """Begin to write."""

    @abstractmethod
    def write(self, scalars: Sequence[Scalar]) -> None:
        """Write numbers that were told at once."""

    def write_text(self, text: str, step: int) -> None:
        """Write what was decided, in words; by default it is left out."""

    def start(self, past: list[Record], total_steps: int | None) -> None:
        self._records = [*past]
        self._step = count_costs(past).apply_steps
        self.open()

    def measure(self, measurement: Measurement) -> None:
        step, values = measurement.step, dict[str, float | None]()
        values["train/loss"], values["train/lr"] = measurement.loss, measurement.lr
        for name, value in measurement.evaluation.items():
            values[f"validation/{name}"] = value
            self._measured.add(step)
        self.write(_finite(values, step))

    def record(self, record: Record) -> None:
        self._records.append(record)
        line = describe(record)
        if line is not None:
            self.write_text(line, self._step)
        match record["kind"]:
            case "probe":
                self.write(self._probe(record))
            case "choice":
                values = {"choice/lr": record["peak_lr"], "choice/forecast": record["forecast"]}
                self.write(_finite(values, record["first_step"]))
            case "apply":
                self.write(self._applied(record))

    def _probe(self, record: Record) -> list[Scalar]:
        probes = [past for past in self._records if past["kind"] == "probe"]
        losses = record["validation_losses"] or record["training_losses"]
        values = {
            "probe/lr": record["peak_lr"],
            "probe/loss": losses[-1] if losses else None,
            "probe/forecast": record["forecast"],
            "probe/forecast_std": record["forecast_std"],
            "probe/diverged": float(record["diverged"]),
            "probe/steps": record["steps"],
            "probe/seconds": record["wall_s"],
        }
        lane = record.get("lane", "unknown")
        seconds = sum(past["wall_s"] for past in probes if past.get("lane", "unknown") == lane)
        lanes = {f"lane/{lane}/seconds": seconds}
        return [
            *_finite(values, len(probes)),
            *_finite(lanes, self._step),
            *self._costs(),
        ]

    def _applied(self, record: Record) -> list[Scalar]:
        self._step = count_costs(self._records).apply_steps
        scalars: list[Scalar] = []
        for step, name, value in record["evaluations"]:
            if step not in self._measured:  # as in a stage that a probe's end was gone on from
                scalars += _finite({f"validation/{name}": value}, step)
        return [*scalars, *self._costs()]

    def _costs(self) -> list[Scalar]:
        costs = count_costs(self._records)
        values: dict[str, Any] = dataclasses.asdict(costs)
        values["search_fraction"] = costs.search_fraction
        return _finite({f"cost/{name}": value for name, value in values.items()}, self._step)


def by_step(scalars: Iterable[Scalar]) -> dict[tuple[bool, int], dict[str, float]]:
    """Return numbers by name for each (whether they are over probes, step), in order."""
    found: dict[tuple[bool, int], dict[str, float]] = {}
    for scalar in scalars:
        key = (scalar.name.startswith(PROBE_PREFIX), scalar.step)
        found.setdefault(key, {})[scalar.name] = scalar.value
    return found


def _finite(values: Mapping[str, float | None], step: int) -> list[Scalar]:
    return [
        Scalar(name, float(value), step)
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    ]
