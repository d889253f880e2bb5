"""The stage machine with scripted searches and forecasts: no Gaussian process, no training."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import Flat, WarmupStableDecay
from ray_autolrs.algorithm.schedules.stage_plan import Stages
from ray_autolrs.algorithm.stages.divergence import MOST_DIVERGENCES
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
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from tests.algorithm.made_up_runs import Scripted, applied, run_plan

WARMUP = Segment(0, 9, 0.03, WarmupStableDecay(0, None, 10, 0))
PLAN = dataclasses.replace(
    run_plan(
        Scripted(),
        stages=Stages(first_steps=100, longest_steps=200),
        total_steps=710,
        first_step=10,
        shape=Flat(),
    ),
    warmup=WARMUP,
)
ENDLESS = dataclasses.replace(PLAN, facts=dataclasses.replace(PLAN.facts, total_steps=None))


def plan(parallel_probes=1, search=PLAN.search):
    return dataclasses.replace(PLAN, search=search, parallel_probes=parallel_probes)


def probe_done(command, loss=1.0, *, diverged=False, first_loss=7.0):
    losses = (first_loss, math.nan if diverged else loss)
    told = () if diverged else (loss,) * command.evals
    return ProbeDone(command.stage, command.index, losses, told, diverged, 0.5)


def apply_done(command, *, diverged=False):
    return ApplyDone(command.stage, command.attempt, (5.0, 4.0), diverged, 0.5)


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


def until_applied(machine, stage, answer):
    """Return the state in which a stage is being applied."""
    state, _ = advance(machine, RunState(), Ready(0))
    while not (isinstance(state.phase, Applying) and state.phase.stage.number == stage):
        state, _ = advance(machine, state, answer(outstanding(state)[0]))
    return state


def indices(commands):
    return [command.index for command in commands if isinstance(command, Probe)]


def lowest_at(index):
    """Answers in which the probe numbered ``index`` has the lowest loss."""

    def answer(command):
        if isinstance(command, Probe):
            return probe_done(command, loss=abs(command.index - index))
        return apply_done(command)

    return answer


def diverging_at_first(times, *, best_first=True):
    """Answers in which the first stage diverges so often when it is applied."""

    def answer(command):
        if isinstance(command, Probe):
            return probe_done(command, loss=command.index if best_first else -command.index)
        return apply_done(command, diverged=command.stage == 1 and command.attempt < times)

    return answer


def test_whole_run():
    state, commands = run(PLAN, lowest_at(2))
    kinds = [type(command).__name__ for command in commands]
    stage = [("Probe", 4), ("Apply", 1)]
    assert [(kind, len(list(group))) for kind, group in itertools.groupby(kinds)] == [
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
    chosen = [probe.segment.peak_lr for probe in probes if probe.index == 2]
    assert [segment.peak_lr for segment in state.segments[1:]] == chosen
    assert [probe.evals for probe in probes[::4]] == [0, 0, 16, 16]
    assert {probe.steps for probe in probes} == {10, 20}


def test_a_warm_up_of_its_own_is_applied_first_and_not_searched():
    state, commands = advance(PLAN, RunState(), Ready(0))
    assert commands == (Apply(0, WARMUP),)
    assert state.phase == WarmingUp(WARMUP)
    assert state.segments == (WARMUP,)
    state, commands = advance(PLAN, state, apply_done(commands[0]))
    assert isinstance(commands[0], Probe)
    assert state.initial_loss == 5.0


def test_without_warm_up_the_first_probe_tells_the_initial_loss():
    machine = run_plan(Scripted(), shape=Flat(), stages=Stages(first_steps=1000))
    state, commands = advance(machine, RunState(), Ready(0))
    assert commands == (Probe(1, 0, Segment(0, 99, 1.0), may_go_on=True),)
    state, _ = advance(machine, state, probe_done(commands[0], first_loss=6.5))
    assert state.initial_loss == 6.5


def test_diverged_probe_is_an_observation_without_a_forecast():
    def answer(command):
        if isinstance(command, Probe):
            return probe_done(command, diverged=command.index != 3)
        return apply_done(command)

    state, _ = run(PLAN, answer)
    for phase in state.past[1:]:
        assert isinstance(phase, Applying)
        assert [result.forecast is None for result in phase.results] == [True, True, True, False]
        assert [result.training_losses for result in phase.results] == [(), (), (), (7.0, 1.0)]
        assert phase.segment.peak_lr == phase.results[3].peak_lr


def test_stage_in_which_every_probe_diverges_fails():
    def answer(command):
        if isinstance(command, Probe):
            return probe_done(command, diverged=command.stage == 2)
        return apply_done(command)

    with pytest.raises(SearchFailedError, match=r"every LR tried in stage 2 diverged \(2, 2.1, "):
        run(PLAN, answer)


def test_diverged_warm_up_fails():
    with pytest.raises(SearchFailedError, match=r"warm-up to LR 0.03 diverged: lower Warmup.lr"):
        run(PLAN, lambda command: apply_done(command, diverged=True))


def test_diverged_stage_is_applied_again_with_the_next_best_lr_below():
    state, commands = run(PLAN, diverging_at_first(2, best_first=False))
    tries = [command for command in commands if isinstance(command, Apply) and command.stage == 1]
    assert [command.attempt for command in tries] == [0, 1, 2]
    assert [command.segment.first_step for command in tries] == [10, 10, 10]
    assert [command.best for command in tries] == [3, 2, 1]
    assert state.segments[1] == tries[2].segment
    stage_one = state.past[1]
    assert isinstance(stage_one, Applying)
    assert applied(tries) == [one.peak_lr for one in stage_one.results[:0:-1]]
    assert [one.forecast is None for one in stage_one.results] == [False, False, True, True]


def test_where_a_strategy_chooses_no_lower_lr_it_is_half_of_what_diverged():
    _, commands = run(PLAN, diverging_at_first(2, best_first=True))
    tries = applied(commands, 1)
    assert tries == [tries[0], tries[0] / 2, tries[0] / 4]


def test_diverged_lr_between_the_probed_ones_is_not_chosen_again():
    machine = plan(search=Scripted(between=(0.5, 0.4, 0.3)))
    state, commands = run(machine, diverging_at_first(2))
    assert applied(commands, 1) == [0.5, 0.4, 0.3]
    stage_one = state.past[1]
    assert isinstance(stage_one, Applying)
    assert [one.peak_lr for one in stage_one.diverged] == [0.5, 0.4]
    assert stage_one.best is None


def test_event_told_twice_changes_nothing():
    state, _ = advance(PLAN, RunState(), Ready(0))
    while not isinstance(state.phase, Finished):
        command = outstanding(state)[0]
        assert isinstance(command, (Probe, Apply))
        event = lowest_at(1)(command)
        state, _ = advance(PLAN, state, event)
        again, commands = advance(PLAN, state, event)
        assert again is state
        assert commands == ()


def test_diverged_stage_told_twice_refuses_one_lr_only():
    state = until_applied(PLAN, 1, lowest_at(2))
    event = apply_done(outstanding(state)[0], diverged=True)
    state, _ = advance(PLAN, state, event)
    again, commands = advance(PLAN, state, event)
    assert again is state
    assert commands == ()


@pytest.mark.parametrize("events", range(1, 22))
def test_restart_at_any_checkpoint_leads_to_the_same_end(events):
    """After any number of events, go back to the start of the current phase or the one before."""
    answer = lowest_at(2)
    expected, _ = run(PLAN, answer)
    state, _ = advance(PLAN, RunState(), Ready(0))
    starts = [0]
    for _ in range(events):
        command = outstanding(state)[0]
        assert isinstance(command, (Probe, Apply))
        starts.append(command.segment.first_step)
        state, _ = advance(PLAN, state, answer(command))
    for step in {starts[-1], max([0, *(s for s in starts if s < starts[-1])])}:
        rewound, commands = advance(PLAN, state, Ready(step))
        assert isinstance(commands[0], (Probe, Apply))
        assert commands[0].segment.first_step == step
        end, _ = run(PLAN, answer, rewound, answer(commands[0]))
        assert end == expected


def test_restart_keeps_the_results_of_a_stage():
    answer = lowest_at(2)
    state, _ = advance(PLAN, RunState(), Ready(0))
    for _ in range(3):  # warm-up and two probes
        state, _ = advance(PLAN, state, answer(outstanding(state)[0]))
    again, commands = advance(PLAN, state, Ready(10))
    assert isinstance(again.phase, Probing)
    assert len(again.phase.results) == 2
    assert indices(commands) == [2]


def test_restart_of_a_stage_that_diverged_goes_on_with_its_next_attempt():
    state = until_applied(PLAN, 1, lowest_at(2))
    state, again = advance(PLAN, state, apply_done(outstanding(state)[0], diverged=True))
    rewound, commands = advance(PLAN, state, Ready(10))
    assert commands == again
    assert isinstance(commands[0], Apply)
    assert commands[0].attempt == 1
    assert rewound == state


def test_restart_after_the_end_finishes():
    state, _ = run(PLAN, lowest_at(2))
    again, commands = advance(PLAN, state, Ready(710))
    assert again == state
    assert commands == (Finish(),)


def drive_in_random_order(parallel_probes, seed):
    """Answer outstanding probes in random order; return what was asked in each stage."""
    machine = plan(parallel_probes)
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


@settings(derandomize=True, max_examples=40, deadline=None)
@given(parallel_probes=st.sampled_from([1, 2, 3, 4, 10]), seed=st.integers(0, 10_000))
def test_order_of_results_does_not_change_the_schedule(parallel_probes, seed):
    assert drive_in_random_order(parallel_probes, seed) == drive_in_random_order(parallel_probes, 0)


def test_parallel_probes_are_given_at_once():
    machine = plan(parallel_probes=3)
    state, _ = advance(machine, RunState(), Ready(0))
    state, commands = advance(machine, state, apply_done(outstanding(state)[0]))
    assert indices(commands) == [0, 1, 2]
    # The second result alone calls for nothing: the fourth LR waits for the first.
    state, new = advance(machine, state, probe_done(commands[1]))
    assert new == ()
    state, new = advance(machine, state, probe_done(commands[0]))
    assert indices(new) == [3]
    assert isinstance(state.phase, Probing)
    # As many results as one lane less would know, whatever else is known.
    assert state.phase.informed_by == (0, 0, 0, 1)


@dataclasses.dataclass(frozen=True)
class Noting(Scripted):
    """Notes how many results it is shown, and how many probes that run."""

    shown: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def suggest(self, context, told, running):
        self.shown.append((len(told), len(running)))
        return super().suggest(context, told, running)


def test_a_probe_is_asked_from_those_a_lane_s_width_before_it_and_no_others():
    """The example of ``search_on``: of two lanes, the second ends first."""
    noting = Noting()
    machine = plan(parallel_probes=2, search=noting)
    state, commands = advance(machine, RunState(), Ready(0))
    state, (zero, one) = advance(machine, state, apply_done(commands[0]))
    state, _ = advance(machine, state, probe_done(one))
    assert noting.shown == [(0, 0), (0, 1)]
    state, new = advance(machine, state, probe_done(zero))
    assert noting.shown[2:] == [(1, 1), (2, 1)]
    assert indices(new) == [2, 3]


def test_probe_that_was_not_asked_changes_nothing():
    """A result from before a restart may come late."""
    state, _ = advance(PLAN, RunState(), Ready(0))
    state, commands = advance(PLAN, state, apply_done(outstanding(state)[0]))
    assert indices(commands) == [0]
    late = ProbeDone(1, 3, (7.0, 1.0), (), False, 0.5)
    assert advance(PLAN, state, late) == (state, ())


def test_applied_segment_names_the_probe_that_it_begins_with():
    _, commands = run(PLAN, lowest_at(2))
    best = [command.best for command in commands if isinstance(command, Apply)]
    assert best == [None, 2, 2, 2, 2]


@dataclasses.dataclass(frozen=True)
class OfOtherShape(Scripted):
    """Its probes fall, and the run does not."""

    def suggest(self, context, told, running):
        candidate = super().suggest(context, told, running)
        if candidate is None:
            return None
        return dataclasses.replace(candidate, shape=WarmupStableDecay(10, 10, 0, 10))


def test_a_stage_goes_on_only_from_probes_of_the_run_s_shape():
    for search, may_go_on in ((Scripted(), True), (OfOtherShape(), False)):
        _, commands = run(plan(search=search), lowest_at(2))
        assert {c.may_go_on for c in commands if isinstance(c, Probe)} == {may_go_on}
        best = [c.best for c in commands if isinstance(c, Apply)]
        assert best == [None, *([2 if may_go_on else None] * 4)]


def test_probes_name_the_best_so_far():
    _, commands = run(PLAN, lowest_at(1))
    best = [command.best for command in commands if isinstance(command, Probe)]
    assert best == [None, 0, 1, 1] * 4


def test_run_without_an_end_goes_on_until_it_is_asked_to_finish():
    machine, answer = dataclasses.replace(ENDLESS, closing_fraction=0.25), lowest_at(2)
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
    assert last.peak_lr == end.segments[-2].peak_lr
    assert [last.lr_at(step) / last.peak_lr for step in (1110, 1295, 1479)] == [
        1.0,
        0.5,
        pytest.approx(1 / 370),
    ]
    assert isinstance(given[-1], Finish)


def test_run_of_constant_shape_without_an_end_finishes_at_the_stage_s_end():
    answer = lowest_at(2)
    state, _ = advance(ENDLESS, RunState(), Ready(0))
    state, _ = advance(ENDLESS, state, FinishRequested())
    end, _ = run(ENDLESS, answer, state, answer(outstanding(state)[0]))
    assert isinstance(end.phase, Finished)
    assert [segment.last_step for segment in end.segments] == [9, 109]


def test_closing_stage_that_diverges_is_applied_again_with_half_the_lr_and_falls():
    machine = dataclasses.replace(ENDLESS, closing_fraction=0.25)
    state, _ = advance(machine, RunState(), Ready(0))
    state, _ = advance(machine, state, FinishRequested())
    while not (isinstance(state.phase, Applying) and state.phase.is_closing):
        state, _ = advance(machine, state, lowest_at(2)(outstanding(state)[0]))
    before = state.phase.segment
    for halvings in range(1, MOST_DIVERGENCES):
        state, commands = advance(machine, state, apply_done(outstanding(state)[0], diverged=True))
        assert isinstance(commands[0], Apply)
        halved = dataclasses.replace(before, peak_lr=before.peak_lr / 2**halvings)
        assert commands[0].segment == halved
    with pytest.raises(SearchFailedError, match="stage 2 diverged 3 times, each time from step"):
        advance(machine, state, apply_done(outstanding(state)[0], diverged=True))
    state, commands = advance(machine, state, apply_done(outstanding(state)[0]))
    assert commands == (Finish(),)


def test_request_to_finish_outlives_a_step_back():
    """The stage that was under way when the user asked is gone through again, and ends the run."""
    answer = lowest_at(2)
    state = until_applied(ENDLESS, 2, answer)
    state, _ = advance(ENDLESS, state, FinishRequested())
    state, _ = advance(ENDLESS, state, Ready(10))  # the start of stage 1
    end, _ = run(ENDLESS, answer, state, answer(outstanding(state)[0]))
    assert [segment.last_step for segment in end.segments] == [9, 109, 309]
