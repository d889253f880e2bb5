"""Bracketing, by itself with made-up results and through the stage machine."""

from __future__ import annotations

import math

import pytest

from ray_autolrs.algorithm.schedules.decays import Trapezoid
from ray_autolrs.algorithm.search.bracket import BracketStrategy, bracket_steps
from ray_autolrs.algorithm.search.strategy import Observation
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import Probe, Ready
from ray_autolrs.algorithm.stages.phases import RunState
from ray_autolrs.algorithm.stages.stage_search import Rules
from ray_autolrs.config import AutoLRSConfig
from tests.algorithm.made_up_runs import (
    GUESS,
    drive,
    first,
    result,
    run_config,
    u_shaped,
)

RUNGS = [10 ** (place / 2 - 2.75) for place in range(6)]
"""Six log-midpoints of 1e-3 to 1: half a decade apart, a quarter from the ends."""


def config(**overrides) -> AutoLRSConfig:
    return run_config(**({"probe_steps": 50} | overrides))


def walk(losses, lrs=RUNGS, **overrides) -> list[Observation]:
    """The probes of a search whose losses at the rungs are given, in the order asked."""
    strategy = BracketStrategy(config(**overrides))
    told: list[Observation] = []
    while (candidate := strategy.suggest(first(), told, ())) is not None:
        place = min(range(len(lrs)), key=lambda place: abs(math.log(lrs[place] / candidate.lr)))
        assert candidate.lr == pytest.approx(lrs[place])
        told.append(result(len(told), candidate.lr, losses[place]))
    return told


def places(told) -> list[int]:
    return [round(2 * (math.log10(observation.lr) + 2.75)) for observation in told]


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
    strategy, told = BracketStrategy(config()), walk([9, 2, 1, 3, 9, 9])
    second = strategy.suggest(first(), (), [told[0].lr])
    assert second is not None
    assert second.lr == told[1].lr
    assert strategy.suggest(first(), (), [told[0].lr, told[1].lr]) is None
    assert strategy.suggest(first(), told[:1], [told[1].lr]) is None
    assert strategy.suggest(first(), told[:2], [told[2].lr]) is None


@pytest.mark.parametrize(
    ("overrides", "steps", "evals", "shape"),
    [
        ({}, 50, 1, Trapezoid(0, 50, 25, 0)),
        ({"averaging": "none"}, 75, 1, Trapezoid(0, 75, 25, 25)),
        ({"forecaster": "tail_mean"}, 50, 0, Trapezoid(0, 50, 25, 0)),
    ],
)
def test_half_of_a_probe_is_warm_up(overrides, steps, evals, shape):
    candidate = BracketStrategy(config(**overrides)).suggest(first(), (), ())
    assert candidate is not None
    assert (candidate.steps, candidate.evals, candidate.shape) == (steps, evals, shape)


@pytest.mark.parametrize(
    ("lr_min", "lr_max", "rungs"), [(0.1, 0.2, 3), (0.01, 0.1, 3), (1e-3, 1.0, 6), (1e-4, 3e-2, 5)]
)
def test_rungs_fill_the_interval(lr_min, lr_max, rungs):
    settings_ = config(lr_min=lr_min, lr_max=lr_max)
    falling = BracketStrategy(settings_)
    told: list[Observation] = []
    while (candidate := falling.suggest(first(), told, ())) is not None:
        told.append(result(len(told), candidate.lr, 1 / candidate.lr))
    factor = (lr_max / lr_min) ** (1 / rungs)
    assert falling.interval == pytest.approx((lr_min * factor**0.5, lr_max / factor**0.5))
    assert told[-1].lr == pytest.approx(lr_max / factor**0.5)
    assert told[1].lr / told[0].lr == pytest.approx(factor)
    assert factor < math.sqrt(10) * (1 + 1e-9)


def found_from(first_lr) -> float:
    """The LR of a whole run whose best probed LR is 0.05."""
    state, _ = drive(rules(config(**GUESS | {"first_lr": first_lr})), u_shaped(0.05))
    (lr,) = {segment.multiplier for segment in state.segments}
    return lr


@pytest.mark.parametrize("wrong", [1 / 300, 1 / 64, 1 / 8, 0.5, 4.0, 64.0, 300.0])
def test_a_wrong_guess_leads_to_the_same_lr(wrong):
    assert found_from(0.05 * wrong) == found_from(0.05)


@pytest.mark.parametrize(
    ("guess", "lrs"),
    [(0.1, [-1, -0.5]), (0.0999, [-1.5, -1]), (0.3, [-1, -0.5]), (10**-0.5, [-0.5, 0])],
)
def test_a_guess_is_searched_around(guess, lrs):
    strategy = BracketStrategy(config(**GUESS | {"first_lr": guess}))
    asked = [strategy.suggest(first(), (), running) for running in ([], [1.0])]
    assert [c.lr for c in asked if c is not None] == pytest.approx([10**place for place in lrs])


@pytest.mark.parametrize(
    ("overrides", "factor"),
    [
        ({}, (2000 / 50) ** -0.16),
        ({"averaging_momentum": 0.8}, (2000 / 50) ** -0.16),
        ({"averaging_momentum": 0.5}, (2000 / 50) ** -0.16),
        ({"averaging_momentum": 0.95}, (2000 / 50) ** -0.04),  # a large batch
        ({"averaging": "none"}, (2000 / 50) ** -0.16),
        ({"total_steps": 8000}, (8000 / 50) ** -0.16),
        ({"total_steps": None}, 1.0),
        ({"total_steps": 40, "warmup_steps": 0}, 1.0),
    ],
)
def test_an_lr_found_in_few_steps_is_lowered_for_many(overrides, factor):
    chosen = BracketStrategy(config(**overrides)).choose(first(), walk([9, 9, 1, 9, 9, 9]))
    assert chosen == pytest.approx(RUNGS[2] * factor)


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
    overrides = {**GUESS, "first_lr": guess}
    told = walk(losses, lrs, **overrides)
    chosen = BracketStrategy(config(**overrides)).choose(first(), told)
    below, plateau = 10**-3.0, 10**-2.25  # rungs -6; -5 and -4
    assert chosen is not None
    assert below < chosen / (2000 / 50) ** -0.16 < plateau


def test_the_preferred_lr_and_those_beside_it_are_weighed():
    strategy = BracketStrategy(config(total_steps=None))
    # A gain of 1 and a temperature of 0.05: weights 1, 1/e and 0.
    told = walk([9.0, 9.0, 1.05, 1.0, 9.0, 9.0], total_steps=None)
    expected = 10 ** (-1.25 - 0.5 / (1 + math.e))
    assert strategy.choose(first(), told) == pytest.approx(expected)


@pytest.mark.parametrize("further", [1.06, 9.0, None])
def test_from_a_guess_the_best_and_its_neighbours_are_weighed(further):
    """A gain of 1 and a temperature of 0.05: weights 1/e, 1 and 1/e, wherever the walk began."""
    overrides = {**GUESS, "first_lr": 0.5, "total_steps": None}
    lrs = [10 ** (place / 2) for place in range(-3, 1)]
    told = walk([1.05, 1.0, 1.05, further], lrs, **overrides)
    assert [result_.lr for result_ in told] == pytest.approx([lrs[2], lrs[3], lrs[1], lrs[0]])
    chosen = BracketStrategy(config(**overrides)).choose(first(), told)
    assert chosen == pytest.approx(lrs[1])


def test_where_all_diverged_none_is_chosen():
    assert BracketStrategy(config()).choose(first(), walk([None] * 6)) is None


# Whole runs -------------------------------------------------------------------------------


def rules(settings_, parallel_probes=1) -> Rules:
    return Rules(settings_, BracketStrategy(settings_), parallel_probes)


@pytest.mark.parametrize("best", [0.004, 0.02, 0.1])
@pytest.mark.parametrize("diverges_at", [math.inf, 4.0])
def test_the_minimum_is_found_within_a_factor_of_two(best, diverges_at):
    state, commands = drive(rules(config()), u_shaped(best, diverges_at * best))
    (lr,) = {segment.multiplier for segment in state.segments}
    factor = (2000 / 50) ** -0.16
    assert best / 2 < lr / factor < 2 * best
    probes = [command for command in commands if isinstance(command, Probe)]
    assert {probe.stage for probe in probes} == {1}
    assert sum(probe.steps for probe in probes) <= bracket_steps(config())


def test_with_ten_lanes_the_first_two_probes_run_at_once():
    machine, answer = rules(config(), parallel_probes=10), u_shaped(0.02)
    state, commands = advance(machine, RunState(), Ready(0))
    assert [command.index for command in commands if isinstance(command, Probe)] == [0, 1]
    state, new = advance(machine, state, answer(commands[1]))
    assert new == ()
    state, new = advance(machine, state, answer(commands[0]))
    assert [command.index for command in new if isinstance(command, Probe)] == [2]
    assert outstanding(state) == new
