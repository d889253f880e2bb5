from __future__ import annotations

import dataclasses

import pytest
import torch

from ray_autolrs.report.costs import count_costs
from ray_autolrs.sinks.curves import CurveSink, Scalar, by_step
from ray_autolrs.sinks.sink import Sink
from ray_autolrs.training.averaging.lr_factors import applied_lr
from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree
from tests.cluster.tiny_runs import tiny_trainer


class Curves(CurveSink):
    def __init__(self) -> None:
        super().__init__()
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.lines: list[str] = []
        self.is_closed = False

    def open(self) -> None:
        self.is_closed = False

    def write(self, scalars) -> None:
        for scalar in scalars:
            self.curves.setdefault(scalar.name, []).append((scalar.step, scalar.value))

    def write_text(self, text, step) -> None:
        self.lines.append(text)

    def close(self) -> None:
        self.is_closed = True


class Events(Sink):
    """What it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def record(self, record) -> None:
        if record["kind"] == "apply":
            self.told.append(("applied", record["segment"]["last_step"] + 1))

    def measure(self, measurement) -> None:
        self.told.append(("measured", measurement.step))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two evaluations a stage, and what its sinks were told."""
    curves, events = Curves(), Events()
    trainer = tiny_trainer(tmp_path_factory.mktemp("storage"))
    trainer.config = dataclasses.replace(
        trainer.config, validation=dataclasses.replace(trainer.config.validation, every_steps=15)
    )
    trainer.sinks = (curves, events)
    return trainer.fit(), curves, events


def test_losses_and_lrs_are_those_of_the_run(run):
    result, sink, _ = run
    losses = [
        loss
        for record in result.events
        if record["kind"] == "apply"
        for loss in record["training_losses"]
    ]
    told = sink.curves["train/loss"]
    assert told
    assert all(loss == losses[step - 1] for step, loss in told)
    # SGD's momentum of 0.9 is off under the average, which makes its LRs ten times as large.
    lrs = dict(sink.curves["train/lr"])
    assert 100 in lrs
    for step, lr in lrs.items():
        assert lr == pytest.approx(10 * result.schedule.lr_at(step - 1))


def test_every_evaluation_is_told_once_and_within_its_stage(run):
    result, sink, events = run
    expected = {
        step: value
        for record in result.events
        if record["kind"] == "apply"
        for step, name, value in record["evaluations"]
        if name == "loss"
    }
    assert sink.curves["validation/loss"] == sorted(expected.items())
    assert len(expected) > sum(record["kind"] == "apply" for record in result.events)
    measured = [step for what, step in events.told if what == "measured"]
    assert measured == sorted(measured)


def test_probes_costs_and_lanes(run):
    result, sink, _ = run
    probes = [record for record in result.events if record["kind"] == "probe"]
    numbers = range(1, len(probes) + 1)
    lrs = [(number, p["peak_lr"]) for number, p in zip(numbers, probes, strict=True)]
    assert sink.curves["probe/lr"] == lrs
    forecasts = [value for _, value in sink.curves["probe/forecast"]]
    assert forecasts == [p["forecast"] for p in probes if p["forecast"] is not None]
    costs = count_costs(result.events)
    assert sink.curves["cost/apply_steps"][-1] == (100, 100.0)
    assert sink.curves["cost/probe_steps"][-1] == (100, float(costs.probe_steps))
    assert sink.curves["lane/all workers/seconds"][-1][1] == pytest.approx(costs.probe_s)
    choices = [record["peak_lr"] for record in result.events if record["kind"] == "choice"]
    assert [lr for _, lr in sink.curves["choice/lr"]] == choices
    assert any(line.startswith("stage 1: apply lr") for line in sink.lines)
    assert sink.is_closed


def test_values_that_are_unknown_are_left_out():
    sink = Curves()
    sink.start([], None)
    record = {
        "kind": "probe",
        "stage": 1,
        "index": 0,
        "peak_lr": 3.0,
        "objective": "validation",
        "forecast": None,
        "forecast_std": None,
        "diverged": True,
        "steps": 2,
        "forward_steps": 0.0,
        "wall_s": 0.5,
        "training_losses": [1.0, None],
        "validation_losses": [],
        "lane": "worker-1",
    }
    sink.record(record)
    assert "probe/loss" not in sink.curves
    assert "probe/forecast" not in sink.curves
    assert sink.curves["probe/diverged"] == [(1, 1.0)]
    assert sink.curves["lane/worker-1/seconds"] == [(0, 0.5)]


def test_numbers_over_probes_and_over_steps_stay_apart():
    sink = Curves()
    scalars: list[Scalar] = []
    sink.write = scalars.extend  # type: ignore[assignment, method-assign]
    sink.start([], None)
    sink.record({"kind": "choice", "peak_lr": 0.1, "forecast": 2.0, "first_step": 1, "steps": 5,
                 "stage": 1, "reason": "kept"})  # fmt: skip
    assert by_step(scalars) == {(False, 1): {"choice/lr": 0.1, "choice/forecast": 2.0}}


@pytest.mark.parametrize(("averaged", "factor"), [(False, 1.0), (True, 10.0)])
def test_applied_lr_has_the_factor_of_averaging(averaged, factor):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer: torch.optim.Optimizer = torch.optim.SGD([parameter], lr=0.5, momentum=0.9)
    if averaged:
        optimizer = ScheduleFree(optimizer)
    parameter.sum().backward()
    optimizer.step()
    assert applied_lr(optimizer) == pytest.approx(0.5 * factor)


def test_applied_lr_of_rmsprop_has_the_correction_of_its_step():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = ScheduleFree(torch.optim.RMSprop([parameter], lr=0.5, alpha=0.99))
    for step in range(2):
        parameter.grad = torch.ones(2)
        optimizer.step()
        assert applied_lr(optimizer) == pytest.approx(0.5 * (1 - 0.99 ** (step + 1)) ** 0.5)
