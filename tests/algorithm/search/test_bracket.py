"""Bracketing, by itself with made-up results and through the stage machine."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_autolrs.algorithm.forecast.noisy_quadratic import Interpolation
from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.algorithm.search.bracket import Bracket, weighted_mean_lr
from ray_autolrs.algorithm.search.lr_walk import lr_grid
from ray_autolrs.algorithm.search.strategy import Choice, Observation
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import Probe, Ready
from ray_autolrs.algorithm.stages.phases import Applying, RunState
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from tests.algorithm.made_up_runs import (
    NOT_AVERAGED,
    applied,
    drive,
    fails_when_applied,
    first,
    result,
    run_facts,
    run_plan,
    u_shaped,
)

BRACKET = Bracket(probe_steps=50, research=None)
GRID = [10 ** (place / 2 - 2.75) for place in range(6)]
"""Six log-midpoints of 1e-3 to 1: half a decade apart, a quarter from the ends."""


def walk(losses, lrs=GRID, **facts) -> list[Observation]:
    """The probes of a search whose losses on the grid are given, in the order asked."""
    told: list[Observation] = []
    while (candidate := BRACKET.suggest(first(**facts), told, ())) is not None:
        lr = candidate.peak_lr
        place = min(range(len(lrs)), key=lambda place: abs(math.log(lrs[place] / lr)))
        assert lr == pytest.approx(lrs[place])
        told.append(result(len(told), lr, losses[place]))
    return told


def chosen(told, **facts) -> float:
    choice = BRACKET.choose(first(**facts), told, ())
    assert choice is not None
    return choice.peak_lr


def places(told) -> list[int]:
    return [round(2 * (math.log10(one.peak_lr) + 2.75)) for one in told]


# The search before the first step ---------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "asked"),
    [
        ([9, 2, 1, 3, 9, 9], [2, 3, 1]),
        ([9, 9, 3, 1, 2, 9], [2, 3, 4]),
        ([2, 1, 3, 4, 9, 9], [2, 3, 1, 0]),
        ([1, 2, 3, 4, 9, 9], [2, 3, 1, 0]),  # the best is the smallest that may be tried
        ([9, 9, 4, 3, 1, 2], [2, 3, 4, 5]),
        ([9, 9, 4, 3, 2, 1], [2, 3, 4, 5]),
        ([2, 1, 1, 1, 9, 9], [2, 3, 1, 0]),  # of equals the smaller is the better
        ([9, 2, 1, None, 9, 9], [2, 3, 1]),
        ([1, 2, None, None, None, None], [2, 3, 1, 0]),
        ([None] * 6, [2, 3, 1, 0]),
        ([9, 2, 3, 1, None, 9], [2, 3, 4]),
    ],
)
def test_the_best_lr_is_bracketed(losses, asked):
    assert places(walk(losses)) == asked


def test_two_probes_may_run_at_once_and_the_third_waits_for_both():
    told = walk([9, 2, 1, 3, 9, 9])
    second = BRACKET.suggest(first(), (), [told[0].peak_lr])
    assert second is not None
    assert second.peak_lr == told[1].peak_lr
    assert BRACKET.suggest(first(), (), [told[0].peak_lr, told[1].peak_lr]) is None
    assert BRACKET.suggest(first(), told[:1], [told[1].peak_lr]) is None
    assert BRACKET.suggest(first(), told[:2], [told[2].peak_lr]) is None
    assert BRACKET.most_parallel_probes == 2


@pytest.mark.parametrize("losses", [[9, 9, 4, 3, 1, 2], [1, 2, None, None, None, None]])
@pytest.mark.parametrize("towards", [0.0, math.inf])
def test_a_probe_is_known_by_its_index_and_not_by_its_lr(losses, towards):
    """An LR that is off in its last place, as another machine may round it, leads on as well."""
    told = walk(losses)
    off = [replace(one, peak_lr=math.nextafter(one.peak_lr, towards)) for one in told]
    for count in range(len(told) + 1):
        assert BRACKET.suggest(first(), off[:count], ()) == BRACKET.suggest(
            first(), told[:count], ()
        )
    assert chosen(off) == pytest.approx(chosen(told))


@pytest.mark.parametrize(
    ("facts", "steps", "shape"),
    [
        ({}, 50, WarmupStableDecay(0, 50, 25, 0)),
        (NOT_AVERAGED, 75, WarmupStableDecay(0, 75, 25, 25)),
    ],
)
def test_half_of_a_probe_is_warm_up(facts, steps, shape):
    candidate = BRACKET.suggest(first(**facts), (), ())
    assert candidate is not None
    assert (candidate.steps, candidate.evals, candidate.shape) == (steps, 1, shape)


@pytest.mark.parametrize(
    ("total_steps", "steps"), [(2300, 50), (100, 12), (1000, 21), (7000, 100), (None, 100)]
)
def test_steps_of_a_probe_follow_the_run(total_steps, steps):
    facts = run_facts(total_steps=total_steps)
    assert Bracket().resolve(facts) == Bracket(probe_steps=steps)
    assert Bracket(probe_steps=9).resolve(facts) == Bracket(probe_steps=9)


def test_re_search_is_refused_where_its_forecast_cannot_read_the_run():
    late = run_facts(first_step=10)
    with pytest.raises(ValueError, match=r"Bracket\.research=.* must be None with Warmup\(lr="):
        Bracket().resolve(late)
    assert Bracket(research=None).resolve(late).probe_steps == 43


@pytest.mark.parametrize(
    ("lr_min", "lr_max", "count"), [(0.1, 0.2, 3), (0.01, 0.1, 3), (1e-3, 1.0, 6), (1e-4, 3e-2, 5)]
)
def test_the_grid_fills_the_interval(lr_min, lr_max, count):
    grid = lr_grid((lr_min, lr_max))
    factor = (lr_max / lr_min) ** (1 / count)
    assert factor < math.sqrt(10) * (1 + 1e-9)
    assert grid == pytest.approx([lr_min * factor ** (place + 0.5) for place in range(count)])


@pytest.mark.parametrize(
    ("guess", "lrs"),
    [(0.1, [-1, -0.5]), (0.0999, [-1.5, -1]), (0.3, [-1, -0.5]), (10**-0.5, [-0.5, 0])],
)
def test_a_guess_is_searched_around(guess, lrs):
    asked = [BRACKET.suggest(first(lr=guess), (), running) for running in ([], [1.0])]
    assert [c.peak_lr for c in asked if c is not None] == pytest.approx([10**lr for lr in lrs])


@pytest.mark.parametrize(
    ("facts", "factor"),
    [
        ({}, (2000 / 50) ** -0.16),
        ({"interpolation": Interpolation(0.5, 2.0)}, (2000 / 50) ** -0.16),
        ({"interpolation": Interpolation(0.95, 2.0)}, (2000 / 50) ** -0.04),  # a large batch
        ({"interpolation": None}, (2000 / 50) ** -0.16),  # another average
        (NOT_AVERAGED, (2000 / 50) ** -0.16),
        ({"total_steps": 8000}, (8000 / 50) ** -0.16),
        ({"total_steps": None}, 1.0),
        ({"total_steps": 40}, 1.0),
    ],
)
def test_an_lr_found_in_few_steps_is_lowered_for_many(facts, factor):
    assert chosen(walk([9, 9, 1, 9, 9, 9]), **facts) == pytest.approx(GRID[2] * factor)


@pytest.mark.parametrize(
    ("losses", "asked"),
    [
        ([1.9, 1.3, 1.0, 0.99, 0.98, 0.97], [2, 3, 1]),  # a plateau: no step up is worth 2%
        ([1.9, 1.02, 1.0, 0.99, 0.98, 0.97], [2, 3, 1, 0]),
        ([1.9, 1.3, 1.0, 0.97, 0.94, 0.91], [2, 3, 4, 5]),
        ([1.9, 1.3, 1.0, 0.97, 0.96, 0.91], [2, 3, 4]),
        ([2.9, 2.5, 2.2, 2.19, 2.18, 2.1], [2, 3, 4, 5]),  # nothing was gained: no margin
    ],
)
def test_a_higher_lr_must_win_by_the_margin(losses, asked):
    """The margin is 2% of what was gained since an initial loss of 2."""
    assert places(walk(losses)) == asked


@pytest.mark.parametrize("guess", [1e-4, 1e-3, 0.01, 0.1, 1.0])
def test_on_a_plateau_the_smallest_lr_is_found_wherever_the_walk_begins(guess):
    lrs = [10 ** (place / 2) for place in range(-20, 10)]
    losses = [1.0 + 0.1 * max(0, -5 - place) - 1e-3 * place for place in range(-20, 10)]
    below, plateau = 10**-3.0, 10**-2.25  # places -6; -5 and -4
    lr = chosen(walk(losses, lrs, lr=guess), lr=guess)
    assert below < lr / (2000 / 50) ** -0.16 < plateau


def test_the_preferred_lr_and_those_beside_it_are_weighed():
    # A gain of 1 and a temperature of 0.05: weights 1, 1/e and 0.
    told = walk([9.0, 9.0, 1.05, 1.0, 9.0, 9.0], total_steps=None)
    assert chosen(told, total_steps=None) == pytest.approx(10 ** (-1.25 - 0.5 / (1 + math.e)))


@pytest.mark.parametrize("further", [1.06, 9.0, None])
def test_from_a_guess_the_best_and_its_neighbours_are_weighed(further):
    """A gain of 1 and a temperature of 0.05: weights 1/e, 1 and 1/e, wherever the walk began."""
    facts = {"lr": 0.5, "total_steps": None}
    lrs = [10 ** (place / 2) for place in range(-3, 1)]
    told = walk([1.05, 1.0, 1.05, further], lrs, **facts)
    assert [one.peak_lr for one in told] == pytest.approx([lrs[2], lrs[3], lrs[1], lrs[0]])
    assert chosen(told, **facts) == pytest.approx(lrs[1])


def test_where_all_diverged_none_is_chosen():
    assert BRACKET.choose(first(), walk([None] * 6), ()) is None


@pytest.mark.parametrize(
    ("losses", "initial_loss", "mean"),
    [
        ([1.0, 1.0, 1.0], 2.0, 0.1),
        ([1.0, 1.05, 9.0], 2.0, 10 ** -(2 - 1 / (1 + math.e))),  # weights 1, 1/e and 0
        ([1.0, 1.1, 9.0], 3.0, 10 ** -(2 - 1 / (1 + math.e))),  # twice the loss gained
        ([9.0, 9.0, 1.0], 2.0, 1.0),
        ([1.0, 1.05, 9.0], 0.5, 10 ** -(2 - 1 / (1 + math.e))),  # nothing gained: of the loss
        ([1.0, 1.05, 9.0], math.nan, 10 ** -(2 - 1 / (1 + math.e))),
    ],
)
def test_weighted_mean(losses, initial_loss, mean):
    assert weighted_mean_lr([0.01, 0.1, 1.0], losses, initial_loss) == pytest.approx(mean, rel=1e-9)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(losses=st.lists(st.floats(-5, 5), min_size=3, max_size=3), shift=st.floats(-3, 3))
def test_weighted_mean_lies_between_and_does_not_see_a_shift_of_the_loss(losses, shift):
    lrs = [0.01, 0.1, 1.0]
    mean = weighted_mean_lr(lrs, losses, 10.0)
    assert 0.01 * (1 - 1e-9) <= mean <= 1 + 1e-9
    moved = weighted_mean_lr(lrs, [loss + shift for loss in losses], 10.0 + shift)
    assert moved == pytest.approx(mean, rel=1e-6)


# Whole runs -------------------------------------------------------------------------------


def found(best=0.05, diverges_at=math.inf, **facts):
    """The one LR of a whole run, and its commands."""
    state, commands = drive(run_plan(BRACKET, **facts), u_shaped(best, diverges_at))
    (lr,) = {segment.peak_lr for segment in state.segments}
    return lr, commands


@pytest.mark.parametrize("wrong", [1 / 300, 1 / 64, 1 / 8, 0.5, 4.0, 64.0, 300.0])
def test_a_wrong_guess_leads_to_the_same_lr(wrong):
    assert found(lr=0.05 * wrong)[0] == found(lr=0.05)[0]


@pytest.mark.parametrize("best", [0.004, 0.02, 0.1])
@pytest.mark.parametrize("diverges_at", [math.inf, 4.0])
def test_the_minimum_is_found_within_a_factor_of_two(best, diverges_at):
    lr, commands = found(best, diverges_at * best)
    assert best / 2 < lr / (2000 / 50) ** -0.16 < 2 * best
    probes = [command for command in commands if isinstance(command, Probe)]
    assert {probe.stage for probe in probes} == {1}
    assert sum(probe.steps for probe in probes) <= BRACKET.planned_steps(run_facts(), ())


@pytest.mark.parametrize(
    ("facts", "steps"),
    [({}, 4 * 50), ({"total_steps": 7000}, 4 * 100), (NOT_AVERAGED, 4 * 75)],
)
def test_planned_probe_steps_are_those_of_a_run(facts, steps):
    plan = run_plan(**{"total_steps": 2300} | facts)
    _, commands = drive(plan, u_shaped(0.006))
    probed = sum(command.steps for command in commands if isinstance(command, Probe))
    assert probed == plan.planned_probe_steps() == steps


def test_with_ten_lanes_the_first_two_probes_run_at_once():
    plan, answer = run_plan(BRACKET, parallel_probes=10), u_shaped(0.02)
    state, commands = advance(plan, RunState(), Ready(0))
    assert [command.index for command in commands if isinstance(command, Probe)] == [0, 1]
    state, new = advance(plan, state, answer(commands[1]))
    assert new == ()
    state, new = advance(plan, state, answer(commands[0]))
    assert [command.index for command in new if isinstance(command, Probe)] == [2]
    assert outstanding(state) == new


@pytest.mark.parametrize("lr", [(1e-3, 1.0), 0.1])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_without_research_an_lr_that_diverges_is_halved(lr, stage):
    _, commands = drive(run_plan(BRACKET, lr=lr), fails_when_applied(stage, 2))
    tries = applied(commands, stage)
    assert tries == [tries[0], tries[0] / 2, tries[0] / 4]
    # The next stage starts where the retreat ended.
    assert set(applied(commands)[stage + 1 :]) == {tries[2]}


def test_an_lr_below_one_that_diverged_is_kept():
    told = walk([9, 9, 1, 9, 9, 9])
    lr = chosen(told)
    assert BRACKET.choose(first(), told, [2 * lr]) == Choice(lr)
    assert BRACKET.choose(first(), told, [lr, lr / 2]) == Choice(lr / 4)


def test_where_every_lr_diverges_the_run_is_given_up():
    message = r"every LR tried in stage 1 diverged \(.*\): lower AutoLRSConfig\.lr, or clip"
    with pytest.raises(SearchFailedError, match=message):
        drive(run_plan(), u_shaped(0.1, diverges_at=1e-9))


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    parallel_probes=st.sampled_from([1, 2, 3, 10]),
    best=st.sampled_from([0.0005, 0.004, 0.05, 0.4, 5.0]),
    facts=st.sampled_from([{}, NOT_AVERAGED, {"lr": 0.03}]),
)
def test_neither_lanes_nor_their_speed_change_the_schedule(seed, parallel_probes, best, facts):
    answer = u_shaped(best, diverges_at=8 * best)
    facts = {"total_steps": 300, **facts}
    expected, one_by_one = drive(run_plan(**facts), answer)
    plan = run_plan(parallel_probes=parallel_probes, **facts)
    state, commands = drive(plan, answer, random.Random(seed))
    assert state.segments == expected.segments
    assert {(c.stage, c.index, c.segment) for c in commands if isinstance(c, Probe)} == {
        (c.stage, c.index, c.segment) for c in one_by_one if isinstance(c, Probe)
    }
    results = [
        sorted(p.results, key=lambda r: r.index) for p in state.past if isinstance(p, Applying)
    ]
    assert results == [list(p.results) for p in expected.past if isinstance(p, Applying)]
