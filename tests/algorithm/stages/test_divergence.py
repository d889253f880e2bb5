"""Back from a divergence, on the pure machine: made-up tasks that diverge at a step."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from ray_autolrs.algorithm.schedules.stage_plan import Stages
from ray_autolrs.algorithm.search.bracket import Bracket
from ray_autolrs.algorithm.search.gaussian_process import GaussianProcess
from ray_autolrs.algorithm.search.strategy import Choice, Divergence
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Probe, ProbeDone, Ready
from ray_autolrs.algorithm.stages.phases import Applying, Finished, Probing, RunState
from ray_autolrs.algorithm.stages.records import replay
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from tests.algorithm.made_up_runs import applied, drive, first, logged, result, run_plan, u_shaped

BEST, CHOSEN = 0.1, pytest.approx(0.1, rel=0.7)
PLACE = 200
"""In stage 2, which is steps 120 to 359 of 2000; probes from its start need 81 steps to get there.
Those at the start of stage 3 are 100 long."""

DEFAULT = Bracket(probe_steps=50)


def spiked(limits, best=BEST):
    """A task that diverges at certain steps if the LR is above a limit there; else u-shaped."""
    sound = u_shaped(best)

    def answer(command):
        segment = command.segment
        for step, limit in limits.items():
            if segment.first_step <= step <= segment.last_step and segment.peak_lr > limit:
                losses = (1.0,) * (step - segment.first_step) + (math.nan,)
                if isinstance(command, Probe):
                    return ProbeDone(command.stage, command.index, losses, (), True, 0.1)
                return ApplyDone(command.stage, command.attempt, losses, True, 0.1)
        return sound(command)

    return answer


def lrs_of(commands, kind, stage):
    return [
        command.segment.peak_lr
        for command in commands
        if isinstance(command, kind) and command.stage == stage
    ]


def test_the_stage_is_searched_below_what_diverged_and_a_later_one_above():
    state, commands = drive(run_plan(DEFAULT), spiked({PLACE: 0.03}))
    found = applied(commands, 1)[0]
    assert found == CHOSEN
    assert lrs_of(commands, Probe, 2) == pytest.approx([found / 2, found / 6])
    assert {c.steps for c in commands if isinstance(c, Probe) and c.stage == 2} == {2 * 81}
    assert applied(commands, 2) == pytest.approx([found, found / 2])
    assert lrs_of(commands, Probe, 3) == pytest.approx([found / 2, found])
    assert applied(commands, 3) == [found]
    assert {*applied(commands)[4:]} == {found}
    assert [segment.peak_lr for segment in state.segments][:3] == [found, found / 2, found]


def test_probes_after_a_divergence_are_no_longer_than_the_stage():
    _, commands = drive(run_plan(DEFAULT), spiked({330: 0.005}))
    probes = [c for c in commands if isinstance(c, Probe) and c.stage == 2]
    assert [probe.steps for probe in probes] == [240] * 3
    found = applied(commands, 1)[0]
    # Half of it and a sixth diverge there, too.
    assert applied(commands, 2) == pytest.approx([found, found / 18])


def test_a_stage_without_a_lower_lr_that_is_sound_ends_the_run():
    with pytest.raises(SearchFailedError, match=r"every LR tried in stage 2 diverged \(.*, .*, "):
        drive(run_plan(DEFAULT), spiked({PLACE: 0.0}))


def test_after_three_divergences_the_run_stops_and_says_what_it_tried():
    def answer(command):
        if isinstance(command, Apply) and command.stage == 2:
            return ApplyDone(2, command.attempt, (1.0,) * 60 + (math.nan,), True, 0.1)
        return u_shaped(BEST)(command)

    tried = r"[\d.e-]+ \(after 61 steps\), [\d.e-]+ \(after 61 steps\), [\d.e-]+ \(after 61 steps\)"
    message = f"stage 2 diverged 3 times, each time from step 120, at LR {tried}: lower"
    with pytest.raises(SearchFailedError, match=message):
        drive(run_plan(DEFAULT), answer)


def test_where_the_next_stages_diverge_above_it_the_lr_stays_and_is_looked_at_more_rarely():
    limits = {120 + 1: 0.03} | dict.fromkeys(range(250, 2000, 10), 0.03)
    plan = run_plan(DEFAULT, stages=Stages(first_steps=120, longest_steps=120))
    _, commands = drive(plan, spiked(limits))
    probed = [stage for stage in range(3, 30) if lrs_of(commands, Probe, stage)]
    assert probed == [3, 5, 9]
    found = applied(commands, 1)[0]
    assert {*applied(commands)[2:]} == {found / 2}


def test_an_lr_that_diverged_in_two_stages_is_not_gone_back_to():
    # Right after the first probe of stage 3 has passed by, so that the run tries it for good.
    limits = {PLACE: 0.03, 500: 0.03}
    _, commands = drive(run_plan(DEFAULT), spiked(limits))
    found = applied(commands, 1)[0]
    assert applied(commands, 3) == pytest.approx([found, found / 2])
    later = [lr for stage in (4, 5, 6) for lr in applied(commands, stage)]
    assert later
    assert max(later) == pytest.approx(found / 2)


@pytest.mark.parametrize("parallel_probes", [1, 2])
def test_a_log_leads_to_the_state_after_any_of_its_records(parallel_probes):
    plan = run_plan(DEFAULT, parallel_probes=parallel_probes)
    states, records = logged(plan, spiked({PLACE: 0.01, 500: 0.02}))
    assert sum(record["kind"] == "apply" and record["diverged"] for record in records) > 1
    for count in range(len(records) + 1):
        # The states hold NaN, which is not equal to itself.
        assert repr(replay(plan, records[:count])) == repr(states[count])


@pytest.mark.parametrize("seed", range(5))
def test_neither_lanes_nor_their_speed_change_what_follows(seed):
    answer = spiked({PLACE: 0.01, 500: 0.02})
    expected, _ = drive(run_plan(DEFAULT), answer)
    plan = run_plan(DEFAULT, parallel_probes=2)
    state, _ = drive(plan, answer, random.Random(seed))
    assert state.segments == expected.segments


def test_a_restart_in_the_middle_goes_on_with_the_same_probes():
    plan, answer = run_plan(DEFAULT), spiked({PLACE: 0.03})
    expected, _ = drive(plan, answer)
    state, _ = advance(plan, RunState(), Ready(0))
    while not isinstance(state.phase, Finished):
        assert isinstance(state.phase, (Probing, Applying))
        step = state.phase.stage.first_step
        state, _ = advance(plan, state, Ready(step))
        state, _ = advance(plan, state, answer(outstanding(state)[0]))
    assert state.segments == expected.segments


def test_a_restart_from_an_earlier_stage_counts_no_divergence_twice():
    plan, answer = run_plan(DEFAULT), spiked({PLACE: 0.01})
    expected, _ = drive(plan, answer)
    state, _ = advance(plan, RunState(), Ready(0))
    goes_back = 3
    while not isinstance(state.phase, Finished):
        command = outstanding(state)[0]
        state, _ = advance(plan, state, answer(command))
        if isinstance(command, Apply) and command.stage == 2 and goes_back:
            goes_back -= 1
            state, _ = advance(plan, state, Ready(0))
            assert isinstance(state.phase, Applying)
    assert state.segments == expected.segments


@pytest.mark.parametrize("choose_by", ["best_observed", "posterior_mean"])
def test_the_papers_search_takes_the_best_of_those_below(choose_by):
    search = GaussianProcess(probes=5, choose_by=choose_by)
    told = [result(0, 0.3, 1.0), result(1, 0.1), result(2, 0.03, 1.1), result(3, 0.01, 1.3)]
    choice = search.choose(replace(first(), diverged=(Divergence(0.1, 50, 5, 1),)), told, ())
    assert choice is not None
    if choose_by == "best_observed":
        assert choice == Choice(0.03, 2)
    assert choice.peak_lr < 0.1
    undisturbed = search.choose(first(), told, ())
    assert undisturbed is not None
    assert undisturbed.peak_lr > 0.1
