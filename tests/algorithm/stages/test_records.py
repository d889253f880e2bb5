from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import Flat
from ray_autolrs.algorithm.schedules.stage_plan import Stages
from ray_autolrs.algorithm.search.bracket import Bracket
from ray_autolrs.algorithm.search.gaussian_process import GaussianProcess
from ray_autolrs.algorithm.search.strategy import Divergence
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import (
    ApplyDone,
    Finish,
    FinishRequested,
    Probe,
    ProbeDone,
    Ready,
)
from ray_autolrs.algorithm.stages.phases import Applying, Probing, RunState
from ray_autolrs.algorithm.stages.records import choice_record, event_record, record_event, replay
from tests.algorithm.made_up_runs import Scripted, logged, run_plan, u_shaped

PLAN = run_plan(
    Scripted(probes=3),
    stages=Stages(first_steps=100, longest_steps=100, growth=1),
    total_steps=300,
    shape=Flat(),
)


def answer(command):
    if isinstance(command, Probe):
        diverged = command.index == 1
        losses = tuple(2 + math.exp(-t * command.segment.peak_lr) for t in range(command.steps))
        losses = (2.5, math.inf, math.nan) if diverged else losses
        told = losses[:1] if diverged else losses[-1:] * command.evals
        return ProbeDone(command.stage, command.index, losses, told, diverged, 0.1, 1.5)
    evaluations = ((command.steps, "loss", 0.1 + 0.2), (command.steps, "accuracy", math.nan))
    return ApplyDone(
        command.stage, command.attempt, (2.0, 1.0 / 3.0), False, 0.2, evaluations, reused_steps=1
    )


@pytest.fixture(scope="module")
def log():
    """A whole run's states, the first before all events, and the record of each event."""
    return logged(PLAN, answer)


def test_replay_leads_to_the_state_after_any_record(log):
    states, records = log
    for count in range(len(records) + 1):
        # The states hold NaN, which is not equal to itself.
        assert repr(replay(PLAN, records[:count])) == repr(states[count])


@dataclasses.dataclass(frozen=True)
class Noting(Scripted):
    asked: Any = dataclasses.field(default_factory=list)

    def suggest(self, context, told, running):
        self.asked.append((context.stage.number, len(told)))
        return super().suggest(context, told, running)


def test_replay_asks_the_search_only_for_what_is_not_logged(log):
    _, records = log
    noting = Noting(probes=3)
    replay(dataclasses.replace(PLAN, search=noting), records[:3])
    assert noting.asked == [(1, 2)]


@pytest.mark.parametrize(
    "search", [Bracket(research=None), GaussianProcess(probes=3)], ids=["bracket", "gp"]
)
@pytest.mark.parametrize("towards", [0.0, math.inf])
def test_a_run_goes_on_from_lrs_that_are_off_in_their_last_place(search, towards):
    """As another machine may round them: a probe is known by its index."""
    plan = run_plan(search, stages=Stages(first_steps=300), total_steps=300, shape=Flat())
    states, records = logged(plan, u_shaped(0.05))
    probes = [record for record in records if record["kind"] == "probe"]
    for record in probes:
        for values in (record, record["segment"]):
            values["peak_lr"] = math.nextafter(values["peak_lr"], towards)
    for count in range(1, len(probes) + 1):
        state = replay(plan, [records[0], *probes[:count]])
        while not isinstance(command := outstanding(state)[0], Finish):
            state, _ = advance(plan, state, u_shaped(0.05)(command))
        (segment,) = state.segments
        assert segment.peak_lr == pytest.approx(states[-1].segments[0].peak_lr)


def test_events_survive_the_log(log):
    _, records = log
    apply = next(record for record in records if record["kind"] == "apply")
    event = record_event(apply)
    assert isinstance(event, ApplyDone)
    assert (event.stage, event.attempt, event.reused_steps) == (1, 0, 1)
    assert event.training_losses == (2.0, 1.0 / 3.0)
    assert event.evaluations[0] == (100, "loss", 0.1 + 0.2)
    assert math.isnan(event.evaluations[1][2])
    diverged = record_event(next(record for record in records if record.get("index") == 1))
    assert isinstance(diverged, ProbeDone)
    assert diverged.diverged
    assert [math.isfinite(loss) for loss in diverged.training_losses] == [True, False, False]
    assert (diverged.steps, diverged.first_loss, diverged.forward_steps) == (3, 2.5, 1.5)


@pytest.mark.parametrize("event", [Ready(7), FinishRequested()])
def test_what_has_no_result_survives_the_log(event):
    assert record_event(event_record(RunState(), event, RunState())) == event


def test_a_probe_s_record():
    _, records = logged(PLAN, answer)
    training, validation = [r for r in records if r["kind"] == "probe" and r["index"] == 0][:2]
    assert training == {
        "kind": "probe",
        "stage": 1,
        "index": 0,
        "attempt": 0,
        "first_step": 0,
        "peak_lr": 1.0,
        "segment": {"first_step": 0, "last_step": 9, "peak_lr": 1.0, "shape": {"name": "flat"}},
        "evals": 0,
        "sample_factor": 1,
        "informed_by": 0,
        "explanation": {},
        "objective": "training",
        "forecast": 2 + math.exp(-9),
        "forecast_course": [],
        "forecast_std": None,
        "trusted": True,
        "diverged": False,
        "steps": 10,
        "forward_steps": 1.5,
        "skipped_steps": 0,
        "wall_s": 0.1,
        "training_losses": [2 + math.exp(-t) for t in range(10)],
        "validation_losses": [],
    }
    assert (validation["evals"], validation["objective"]) == (16, "validation")
    assert len(validation["validation_losses"]) == 16
    assert validation["forecast"] == validation["validation_losses"][-1]


def test_a_probe_judged_by_validation_keeps_its_training_losses_for_later_forecasts():
    plan = run_plan(total_steps=300)
    state, _ = advance(plan, RunState(), Ready(0))
    told = ProbeDone(1, 0, (2.0, 1.8, 1.0 / 3.0), (1.5,), False, 0.1, 0.5)
    after, _ = advance(plan, state, told)
    record = event_record(state, told, after)
    assert record_event(record) == told
    assert isinstance(after.phase, Probing)
    assert after.phase.results[0].training_losses == (2.0, 1.8, 1.0 / 3.0)
    assert after.phase.results[0].shape == after.phase.asked[0].shape
    assert record["forecast"] == 1.5


def first_choice(states):
    return next(state.phase for state in states if isinstance(state.phase, Applying))


def test_choice_names_the_probe_and_its_forecast(log):
    states, records = log
    record = choice_record(first_choice(states))
    probe = next(r for r in records if r["kind"] == "probe" and r["index"] == record["index"])
    assert (record["peak_lr"], record["forecast"]) == (probe["peak_lr"], probe["forecast"])
    assert record_event(record) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "lowest forecast"),
        ({"probe": 0}, "kept"),
        ({"probe": None}, "between the tried ones"),
        ({"probe": None, "results": ()}, "not searched"),
        ({"diverged": (Divergence(0.5, 30, 3),)}, "below what diverged"),
    ],
)
def test_choice_says_why(log, changes, reason):
    phase = first_choice(log[0])
    phase = dataclasses.replace(phase, segment=Segment(0, 99, 0.123), **changes)
    record = choice_record(phase)
    assert record["reason"] == reason
    assert (record["peak_lr"], record["index"]) == (0.123, phase.probe)
    assert (record["forecast"] is None) == (phase.probe is None)
