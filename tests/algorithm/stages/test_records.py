from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from ray_autolrs.algorithm.search.gaussian_process import GaussianProcessStrategy
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import ApplyDone, Finish, Probe, ProbeDone, Ready
from ray_autolrs.algorithm.stages.phases import Applying, Probing, RunState
from ray_autolrs.algorithm.stages.records import choice_record, event_record, record_event, replay
from ray_autolrs.algorithm.stages.rules import rules_of
from ray_autolrs.config import AutoLRSConfig

CONFIG = AutoLRSConfig.paper(
    total_steps=300, lr_min=1e-3, lr_max=1.0, first_stage_steps=100, probes_per_stage=3
)


def answer(command):
    if isinstance(command, Probe):
        diverged = command.index == 1
        losses = tuple(2 + math.exp(-t * command.segment.multiplier) for t in range(command.steps))
        losses = (2.5, math.inf, math.nan) if diverged else losses
        return ProbeDone(
            command.stage, command.index, losses, diverged, len(losses), 0.1, losses[0]
        )
    evaluations = ((command.steps, "loss", 0.1 + 0.2), (command.steps, "accuracy", 0.5))
    return ApplyDone(
        command.stage, command.segment.multiplier, (2.0, 1.0 / 3.0), False, 0.2, evaluations
    )


@pytest.fixture(scope="module")
def logged():
    """A whole run's states and records, one of each for an event."""
    rules = rules_of(CONFIG)
    states, records = [RunState()], []
    event = Ready(0)
    while True:
        after, _ = advance(rules, states[-1], event)
        record = event_record(states[-1], event, after)
        records.append(json.loads(json.dumps(record, allow_nan=False)))
        states.append(after)
        command = outstanding(after)[0]
        if isinstance(command, Finish):
            return states, records
        event = answer(command)


def test_replay_leads_to_the_state_after_any_record(logged):
    states, records = logged
    for count in range(len(records) + 1):
        assert repr(replay(rules_of(CONFIG), records[:count])) == repr(states[count])


def test_replay_asks_the_search_only_for_what_is_not_logged(logged):
    _states, records = logged
    asked = []

    class Noting(GaussianProcessStrategy):
        def suggest(self, context, told, running):
            asked.append((context.stage.number, len(told)))
            return super().suggest(context, told, running)

    replay(replace(rules_of(CONFIG), strategy=Noting(CONFIG)), records[:3])
    assert asked == [(1, 2)]


def test_events_survive_the_log(logged):
    _, records = logged
    apply = next(record for record in records if record["kind"] == "apply")
    event = record_event(apply)
    assert isinstance(event, ApplyDone)
    assert event.losses == (2.0, 1.0 / 3.0)
    assert event.evaluations == ((100, "loss", 0.1 + 0.2), (100, "accuracy", 0.5))
    diverged = record_event(next(record for record in records if record.get("index") == 1))
    assert isinstance(diverged, ProbeDone)
    assert diverged.diverged
    assert [math.isfinite(loss) for loss in diverged.losses] == [True, False, False]


def test_a_probe_judged_by_validation_keeps_its_training_losses_for_later_forecasts():
    config = AutoLRSConfig(total_steps=300, lr_min=1e-3, lr_max=1.0)
    rules = rules_of(config)
    state, _ = advance(rules, RunState(), Ready(0))
    told = ProbeDone(1, 0, (1.5,), False, 3, 0.1, 2.0, 0.5, (2.0, 1.8, 1.0 / 3.0))
    after, _ = advance(rules, state, told)
    record = json.loads(json.dumps(event_record(state, told, after), allow_nan=False))
    assert record_event(record) == told
    assert isinstance(after.phase, Probing)
    assert after.phase.results[0].losses == (2.0, 1.8, 1.0 / 3.0)
    assert after.phase.results[0].shape == after.phase.asked[0].shape


def test_choice_names_the_probe_and_its_forecast(logged):
    states, records = logged
    phase = next(state.phase for state in states if isinstance(state.phase, Applying))
    record = choice_record(phase)
    probe = next(r for r in records if r["kind"] == "probe" and r["index"] == record["index"])
    assert (record["lr"], record["forecast"]) == (probe["lr"], probe["forecast"])
    assert record_event(record) is None


def test_choice_between_the_probed_lrs_has_no_forecast(logged):
    states, _ = logged
    phase = next(state.phase for state in states if isinstance(state.phase, Applying))
    segment = type(phase.segment)(0, 99, 0.123)
    record = choice_record(type(phase)(phase.stage, segment, phase.results))
    assert (record["lr"], record["index"], record["forecast"]) == (0.123, None, None)
