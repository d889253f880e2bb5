"""The stage machine with scripted searches and forecasts: no Gaussian process, no training."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_autolrs.algorithm.forecast.exponential import Forecast
from ray_autolrs.algorithm.schedules.segments import LinearWarmup, Segment
from ray_autolrs.algorithm.search.stage_probes import stage_candidate
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import (
    Apply,
    ApplyDone,
    Finish,
    FinishRequested,
    Probe,
    ProbeDone,
    Ready,
)
from ray_autolrs.algorithm.stages.phases import Applying, Finished, Probing, RunState, WarmingUp
from ray_autolrs.algorithm.stages.stage_search import Rules, SearchFailedError
from ray_autolrs.config import AutoLRSConfig

CONFIG = AutoLRSConfig.paper(
    total_steps=710,
    lr_min=1e-3,
    lr_max=1.0,
    warmup_steps=10,
    first_stage_steps=100,
    max_stage_steps=200,
    probes_per_stage=4,
)


@dataclass(frozen=True)
class Scripted:
    """Suggests stage + place/10, plus what it was told, and takes a probe's last loss."""

    config: AutoLRSConfig
    choice: Callable[..., float] | None = None

    def suggest(self, context, told, running):
        if len(told) + len(running) >= self.config.probes_per_stage:
            return None
        seen = sum(result.forecast.loss if result.forecast else 0.0 for result in told)
        lr = context.stage.number + (len(told) + len(running)) / 10 + seen / 1000
        return stage_candidate(self.config, context, lr)

    def judge(self, context, candidate, losses):
        return Forecast(losses[-1], 0.1)

    def choose(self, context, told):
        if self.choice:
            return self.choice(told)
        finite = [(result.forecast.loss, result.lr) for result in told if result.forecast]
        return min(finite)[1] if finite else None


def rules(config=CONFIG, parallel_probes=1, choose=None):
    return Rules(config, Scripted(config, choose), parallel_probes)


def probe_done(command, loss=1.0, *, diverged=False, first_loss=7.0):
    losses = (math.nan,) if diverged else (first_loss, loss)
    return ProbeDone(command.stage, command.index, losses, diverged, 2, 0.5, first_loss)


def apply_done(command, *, diverged=False):
    return ApplyDone(command.stage, command.segment.multiplier, (5.0, 4.0), diverged, 0.5)


def run(machine, answer, state=None, event=None):
    """Drive a machine to its end; return the final state and every command."""
    state = state or RunState()
    event = event or Ready(0)
    given = []
    while True:
        state, _ = advance(machine, state, event)
        command = outstanding(state)[0]
        given.append(command)
        if isinstance(command, Finish):
            return state, given
        event = answer(command)


def indices(commands):
    return [command.index for command in commands if isinstance(command, Probe)]


def lowest_at(index):
    """Answers in which the probe numbered ``index`` has the lowest loss."""

    def answer(command):
        if isinstance(command, Probe):
            return probe_done(command, loss=abs(command.index - index))
        return apply_done(command)

    return answer


def test_whole_run():
    state, commands = run(rules(), lowest_at(2))
    kinds = [(type(command).__name__, getattr(command, "stage", None)) for command in commands]
    stage = [("Probe", 4), ("Apply", 1)]
    assert [(kind, len(list(group))) for kind, group in itertools.groupby(k for k, _ in kinds)] == [
        ("Apply", 1),
        *(stage * 4),
        ("Finish", 1),
    ]
    assert isinstance(state.phase, Finished)
    assert [(s.first_step, s.last_step) for s in state.segments] == [
        (0, 9),
        (10, 109),
        (110, 309),
        (310, 509),
        (510, 709),
    ]
    probes = [command for command in commands if isinstance(command, Probe)]
    chosen = [probe.segment.multiplier for probe in probes if probe.index == 2]
    assert [segment.multiplier for segment in state.segments[1:]] == chosen
    assert [probe.evals for probe in probes[::4]] == [0, 0, 16, 16]
    assert {probe.steps for probe in probes} == {10, 20}


def test_warm_up_is_linear_and_not_searched():
    state, commands = advance(rules(), RunState(), Ready(0))
    segment = Segment(0, 9, CONFIG.resolved_warmup_lr, LinearWarmup(0, 10))
    assert commands == (Apply(0, segment),)
    assert state.phase == WarmingUp(segment)
    assert state.segments == (segment,)
    state, commands = advance(rules(), state, apply_done(commands[0]))
    assert isinstance(commands[0], Probe)
    assert state.initial_loss == 5.0


def test_without_warm_up_the_first_probe_tells_the_initial_loss():
    config = AutoLRSConfig.paper(total_steps=1000, lr_min=1e-3, lr_max=1.0)
    state, commands = advance(rules(config), RunState(), Ready(0))
    assert commands == (Probe(1, 0, Segment(0, 99, 1.0)),)
    state, _ = advance(rules(config), state, probe_done(commands[0], first_loss=6.5))
    assert state.initial_loss == 6.5


def test_diverged_probe_is_an_observation_without_a_forecast():
    def answer(command):
        if isinstance(command, Probe):
            return probe_done(command, diverged=command.index != 3)
        return apply_done(command)

    state, _ = run(rules(), answer)
    for phase in state.past[1:]:
        assert isinstance(phase, Applying)
        assert [result.forecast is None for result in phase.results] == [True, True, True, False]
        assert phase.segment.multiplier == phase.results[3].lr


def test_stage_in_which_every_probe_diverges_fails():
    def answer(command):
        if isinstance(command, Probe):
            return probe_done(command, diverged=command.stage == 2)
        return apply_done(command)

    with pytest.raises(SearchFailedError, match=r"every LR tried in stage 2 diverged \(2, 2.1, "):
        run(rules(), answer)


def test_diverged_warm_up_fails():
    with pytest.raises(SearchFailedError, match=r"warm-up to LR 0.0316 diverged: lower warmup_lr"):
        run(rules(), lambda command: apply_done(command, diverged=True))


def test_diverged_stage_is_applied_again_with_the_next_best_lr():
    applied = []

    def answer(command):
        if isinstance(command, Probe):
            return probe_done(command, loss=command.index)
        if command.stage == 1:
            applied.append(command.segment)
        return apply_done(command, diverged=command.stage == 1 and len(applied) < 3)

    state, _ = run(rules(), answer)
    assert len(applied) == 3
    assert [segment.first_step for segment in applied] == [10, 10, 10]
    assert state.segments[1] == applied[2]
    stage_one = state.past[1]
    assert isinstance(stage_one, Applying)
    assert [segment.multiplier for segment in applied] == [r.lr for r in stage_one.results[:3]]


def test_diverged_lr_between_the_probed_ones_is_not_chosen_again():
    def choose(told):
        diverged = {result.lr for result in told if result.forecast is None}
        return next(lr for lr in (0.5, 0.4, 0.3) if lr not in diverged)

    applied = []

    def answer(command):
        if isinstance(command, Probe):
            return probe_done(command)
        if command.stage == 1:
            applied.append(command.segment.multiplier)
        return apply_done(command, diverged=command.stage == 1 and len(applied) < 3)

    run(rules(choose=choose), answer)
    assert applied == [0.5, 0.4, 0.3]


def test_event_told_twice_changes_nothing():
    machine = rules()
    state, _ = advance(machine, RunState(), Ready(0))
    while not isinstance(state.phase, Finished):
        command = outstanding(state)[0]
        assert isinstance(command, (Probe, Apply))
        event = lowest_at(1)(command)
        state, _ = advance(machine, state, event)
        again, commands = advance(machine, state, event)
        assert again is state
        assert commands == ()


def test_diverged_stage_told_twice_refuses_one_lr_only():
    machine = rules()
    state, _ = advance(machine, RunState(), Ready(0))
    while not (isinstance(state.phase, Applying) and state.phase.stage.number == 1):
        state, _ = advance(machine, state, lowest_at(2)(outstanding(state)[0]))
    event = apply_done(outstanding(state)[0], diverged=True)
    state, _ = advance(machine, state, event)
    again, commands = advance(machine, state, event)
    assert again is state
    assert commands == ()


@pytest.mark.parametrize("events", range(1, 22))
def test_restart_at_any_checkpoint_leads_to_the_same_end(events):
    """After any number of events, go back to the start of the current phase or the one before."""
    machine, answer = rules(), lowest_at(2)
    expected, _ = run(machine, answer)
    state, _ = advance(machine, RunState(), Ready(0))
    starts = [0]
    for _ in range(events):
        command = outstanding(state)[0]
        assert isinstance(command, (Probe, Apply))
        starts.append(command.segment.first_step)
        state, _ = advance(machine, state, answer(command))
    for step in {starts[-1], max([0, *(s for s in starts if s < starts[-1])])}:
        rewound, commands = advance(machine, state, Ready(step))
        assert isinstance(commands[0], (Probe, Apply))
        assert commands[0].segment.first_step == step
        end, _ = run(machine, answer, rewound, answer(commands[0]))
        assert end == expected


def test_restart_keeps_the_results_of_a_stage():
    machine, answer = rules(), lowest_at(2)
    state, _ = advance(machine, RunState(), Ready(0))
    for _ in range(3):  # warm-up and two probes
        state, _ = advance(machine, state, answer(outstanding(state)[0]))
    again, commands = advance(machine, state, Ready(10))
    assert isinstance(again.phase, Probing)
    assert len(again.phase.results) == 2
    assert indices(commands) == [2]


def test_restart_after_the_end_finishes():
    machine = rules()
    state, _ = run(machine, lowest_at(2))
    again, commands = advance(machine, state, Ready(710))
    assert again == state
    assert commands == (Finish(),)


def drive_in_random_order(parallel_probes, seed):
    """Answer outstanding probes in random order; return what was asked in each stage."""
    machine = rules(parallel_probes=parallel_probes)
    order = random.Random(seed)
    state, _ = advance(machine, RunState(), Ready(0))
    asked = {}
    while not isinstance(state.phase, Finished):
        waiting = outstanding(state)
        assert 1 <= len(waiting) <= parallel_probes
        for command in waiting:
            assert isinstance(command, (Probe, Apply))
            asked[command.stage, getattr(command, "index", None)] = command.segment
        command = order.choice(waiting)
        state, new = advance(machine, state, lowest_at(2)(command))
        assert set(new) <= set(outstanding(state))
    return state, asked


@settings(derandomize=True, max_examples=60, deadline=None)
@given(parallel_probes=st.sampled_from([1, 2, 3, 4, 10]), seed=st.integers(0, 10_000))
def test_order_of_results_does_not_change_the_schedule(parallel_probes, seed):
    assert drive_in_random_order(parallel_probes, seed) == drive_in_random_order(parallel_probes, 0)


def test_parallel_probes_are_given_at_once():
    state, _ = advance(rules(parallel_probes=3), RunState(), Ready(0))
    state, commands = advance(rules(parallel_probes=3), state, apply_done(outstanding(state)[0]))
    assert indices(commands) == [0, 1, 2]
    # The second result alone calls for nothing: the fourth LR waits for the first.
    state, new = advance(rules(parallel_probes=3), state, probe_done(commands[1]))
    assert new == ()
    state, new = advance(rules(parallel_probes=3), state, probe_done(commands[0]))
    assert indices(new) == [3]


def test_probe_that_was_not_asked_changes_nothing():
    """A result from before a restart may come late."""
    state, _ = advance(rules(), RunState(), Ready(0))
    state, commands = advance(rules(), state, apply_done(outstanding(state)[0]))
    assert indices(commands) == [0]
    late = ProbeDone(1, 3, (7.0, 1.0), False, 2, 0.5, 7.0)
    assert advance(rules(), state, late) == (state, ())


def test_applied_segment_names_the_probe_that_it_begins_with():
    _, commands = run(rules(), lowest_at(2))
    assert [command.best for command in commands if isinstance(command, Apply)] == [
        None,
        2,
        2,
        2,
        2,
    ]


def test_probes_name_the_best_so_far():
    _, commands = run(rules(), lowest_at(1))
    best = [command.best for command in commands if isinstance(command, Probe)]
    assert best == [None, 0, 1, 1] * 4


def test_run_without_an_end_goes_on_until_it_is_asked_to_finish():
    config = dataclasses.replace(CONFIG, total_steps=None, shape="wsd", decay_fraction=0.25)
    machine, answer = rules(config), lowest_at(2)
    state, _ = advance(machine, RunState(), Ready(0))
    while len(state.past) < 6:
        state, _ = advance(machine, state, answer(outstanding(state)[0]))
    ending, commands = advance(machine, state, FinishRequested())
    assert commands == ()
    assert advance(machine, ending, FinishRequested()) == (ending, ())
    end, given = run(machine, answer, ending, answer(outstanding(ending)[0]))
    # The stage that was under way ends; then the LR falls for a quarter of the whole.
    last = end.segments[-1]
    assert (last.first_step, last.last_step) == (1110, 1479)
    assert last.multiplier == end.segments[-2].multiplier
    assert [last.lr_at(step) / last.multiplier for step in (1110, 1295, 1479)] == [
        1.0,
        0.5,
        pytest.approx(1 / 370),
    ]
    assert isinstance(given[-1], Finish)


def test_run_of_constant_shape_without_an_end_finishes_at_the_stage_s_end():
    machine, answer = rules(dataclasses.replace(CONFIG, total_steps=None)), lowest_at(2)
    state, _ = advance(machine, RunState(), Ready(0))
    state, _ = advance(machine, state, FinishRequested())
    end, _ = run(machine, answer, state, answer(outstanding(state)[0]))
    assert isinstance(end.phase, Finished)
    assert [segment.last_step for segment in end.segments] == [9, 109]


def test_closing_stage_that_diverges_is_applied_again_with_half_the_lr_and_falls():
    config = dataclasses.replace(CONFIG, total_steps=None, shape="wsd", decay_fraction=0.25)
    machine, answer = rules(config), lowest_at(2)
    state, _ = advance(machine, RunState(), Ready(0))
    state, _ = advance(machine, state, FinishRequested())
    while not (isinstance(state.phase, Applying) and state.phase.stage.number == 2):
        state, _ = advance(machine, state, answer(outstanding(state)[0]))
    before = state.phase.segment
    state, commands = advance(machine, state, apply_done(outstanding(state)[0], diverged=True))
    (again,) = commands
    assert isinstance(again, Apply)
    assert again.segment == dataclasses.replace(before, multiplier=before.multiplier / 2)
    state, commands = advance(machine, state, apply_done(again))
    assert commands == (Finish(),)


def test_request_to_finish_outlives_a_step_back():
    """The stage that was under way when the user asked is gone through again, and ends the run."""
    machine = rules(dataclasses.replace(CONFIG, total_steps=None))
    answer = lowest_at(2)
    state, _ = advance(machine, RunState(), Ready(0))
    while not (isinstance(state.phase, Applying) and state.phase.stage.number == 2):
        state, _ = advance(machine, state, answer(outstanding(state)[0]))
    state, _ = advance(machine, state, FinishRequested())
    state, _ = advance(machine, state, Ready(10))  # the start of stage 1
    end, _ = run(machine, answer, state, answer(outstanding(state)[0]))
    assert [segment.last_step for segment in end.segments] == [9, 109, 309]
