"""Successive halving, by itself with made-up results and through the stage machine."""

from __future__ import annotations

import math

import pytest

from ray_autolrs.algorithm.schedules.decays import Trapezoid
from ray_autolrs.algorithm.search.halving import HalvingStrategy, halving_steps
from ray_autolrs.algorithm.search.strategy import Observation
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import Probe, Ready
from ray_autolrs.algorithm.stages.phases import RunState
from ray_autolrs.algorithm.stages.stage_search import Rules
from ray_autolrs.config import AutoLRSConfig
from tests.algorithm.made_up_runs import (
    GUESS,
    applied,
    drive,
    fails_when_applied,
    first,
    result,
    run_config,
    u_shaped,
)

SPREAD = [10 ** (place / 2 - 2.75) for place in range(6)]
"""Six log-midpoints of 1e-3 to 1: half a decade apart, a quarter from the ends."""


def config(**overrides) -> AutoLRSConfig:
    return run_config(**({"search": "halving", "probe_steps": 20} | overrides))


def short(losses) -> list[Observation]:
    return [
        result(index, lr, loss)
        for index, (lr, loss) in enumerate(zip(SPREAD, losses, strict=False))
    ]


# The search before the first step ---------------------------------------------------------


def test_six_short_probes_are_spread_over_the_interval():
    strategy = HalvingStrategy(config())
    asked = [strategy.suggest(first(), short([1.0] * told), ()) for told in range(6)]
    assert [candidate.lr for candidate in asked if candidate] == pytest.approx(SPREAD)
    assert {(c.steps, c.evals, c.shape) for c in asked if c} == {(20, 1, Trapezoid(0, 20, 5, 0))}


@pytest.mark.parametrize(
    ("losses", "finalists"),
    [
        ([5, 4, 3, 1, 2, 3], [2, 3, 4]),
        ([1, 2, 3, 4, 5, 6], [0, 1, 2]),  # the best is the lowest
        ([6, 5, 4, 3, 2, 1], [3, 4, 5]),  # the best is the highest
        ([5, 4, 1, None, None, None], [1, 2, 3]),  # a neighbour diverged: it is tried again
        ([None, None, None, None, None, 1], [3, 4, 5]),
        ([5, 1, 3, 1, 2, 3], [0, 1, 2]),  # of equals the lower
    ],
)
def test_the_best_and_its_neighbours_are_tried_for_longer(losses, finalists):
    strategy, told = HalvingStrategy(config()), short(losses)
    asked = []
    for place in range(3):
        candidate = strategy.suggest(first(), told, ())
        assert candidate is not None
        assert (candidate.steps, candidate.evals) == (50, 1)
        assert candidate.shape == Trapezoid(0, 50, 5, 0)
        asked.append(candidate.lr)
        told.append(result(6 + place, candidate.lr, 1.0))
    assert asked == [SPREAD[place] for place in finalists]
    assert strategy.suggest(first(), told, ()) is None


def test_long_probes_without_averaging_fall_to_zero_in_their_last_steps():
    candidate = HalvingStrategy(config(averaging="none")).suggest(first(), short([1.0] * 6), ())
    assert candidate is not None
    assert (candidate.steps, candidate.shape) == (60, Trapezoid(0, 60, 5, 10))
    assert candidate.shape.factor(49) == 1.0
    assert candidate.shape.factor(59) == pytest.approx(0.1)


def test_a_named_forecaster_is_given_training_losses():
    candidate = HalvingStrategy(config(forecaster="tail_mean")).suggest(first(), (), ())
    assert candidate is not None
    assert candidate.evals == 0


@pytest.mark.parametrize("told", range(6))
def test_the_second_round_waits_for_all_of_the_first(told):
    strategy = HalvingStrategy(config())
    assert strategy.suggest(first(), short([1.0] * told), SPREAD[told:]) is None


def test_where_all_diverged_nothing_is_asked_or_chosen():
    strategy, told = HalvingStrategy(config()), short([None] * 6)
    assert strategy.suggest(first(), told, ()) is None
    assert strategy.choose(first(), told) is None


def test_where_all_long_probes_diverged_the_short_ones_decide():
    told = [*short([9, 9, 1, 9, 9, 9]), *(result(6 + i, SPREAD[1 + i]) for i in range(3))]
    chosen = HalvingStrategy(config()).choose(first(), told)
    assert chosen is not None
    assert chosen <= SPREAD[1]  # what diverged later is not an LR to train with


@pytest.mark.parametrize(
    ("overrides", "factor"),
    [
        ({}, (2000 / 40) ** -0.1),
        ({"averaging": "ema"}, (2000 / 40) ** -0.1),
        ({"total_steps": None}, 1.0),
        ({"averaging": "none"}, (2000 / 40) ** -0.2),
        ({"averaging": "none", "total_steps": 8000}, (8000 / 40) ** -0.2),
        ({"averaging": "none", "total_steps": None}, 1.0),
        ({"averaging": "none", "total_steps": 40, "warmup_steps": 0, "probe_steps": 30}, 1.0),
    ],
)
def test_an_lr_found_in_few_steps_is_lowered_for_many(overrides, factor):
    told = [*short([1.0] * 6), *(result(6 + i, 0.1, 1.0) for i in range(3))]
    chosen = HalvingStrategy(config(**overrides)).choose(first(), told)
    assert chosen == pytest.approx(0.1 * factor)


def test_only_long_probes_are_weighed():
    told = [*short([1, 1, 1, 1, 1, 0.9]), *(result(6 + i, SPREAD[3 + i], 1.0) for i in range(3))]
    chosen = HalvingStrategy(config(total_steps=None)).choose(first(), told)
    assert chosen == pytest.approx(SPREAD[4])


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ({"total_steps": 2300, "probe_steps": None}, 6 * 20 + 3 * 50),
        ({"total_steps": 5000, "probe_steps": None}, 6 * 28 + 3 * 70),
        ({"total_steps": None, "probe_steps": None}, 6 * 40 + 3 * 100),
        ({"probe_steps": 30, "averaging": "none"}, 6 * 30 + 3 * (75 + 15)),
        (GUESS, 6 * 20 + 3 * 50),
    ],
)
def test_halving_steps(overrides, steps):
    assert halving_steps(config(**overrides)) == steps


def test_a_guess_is_searched_around():
    strategy = HalvingStrategy(config(**GUESS))
    asked = [strategy.suggest(first(), short([1.0] * told), ()) for told in range(6)]
    lrs = [candidate.lr for candidate in asked if candidate]
    assert lrs == pytest.approx([0.1 * 256 ** ((place + 0.5) / 6 - 0.5) for place in range(6)])


# Retreats ---------------------------------------------------------------------------------


def rules(settings_, parallel_probes=1) -> Rules:
    return Rules(settings_, HalvingStrategy(settings_), parallel_probes)


def test_a_retreat_is_where_the_next_stage_starts():
    _, commands = drive(rules(config()), fails_when_applied(1, 1))
    first_try, retreat, *rest = applied(commands)
    assert retreat == first_try / 2
    assert set(rest) == {retreat}


# Whole runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [0.004, 0.02, 0.1])
@pytest.mark.parametrize("diverges_at", [math.inf, 3.0])
def test_the_minimum_is_found_within_a_factor_of_two(best, diverges_at):
    state, commands = drive(rules(config()), u_shaped(best, diverges_at * best))
    (lr,) = {segment.multiplier for segment in state.segments}
    assert best / 2 < lr < 2 * best
    probes = [c for c in commands if isinstance(c, Probe) and c.stage == 1]
    assert len(probes) == 9
    assert sum(probe.steps for probe in probes) == halving_steps(config())


@pytest.mark.parametrize("wrong", [1 / 8, 1 / 3, 1.0, 4.0])
def test_a_wrong_guess_is_corrected(wrong):
    state, _ = drive(rules(config(**GUESS | {"first_lr": 0.1 * wrong})), u_shaped(0.1))
    assert 0.05 < state.segments[-1].multiplier < 0.2


@pytest.mark.parametrize("best", [1e-4, 0.0012, 0.9, 30.0])
def test_a_best_lr_beyond_the_interval_s_end_leads_to_it(best):
    state, _ = drive(rules(config()), u_shaped(best))
    lrs = [segment.multiplier for segment in state.segments]
    assert all(1e-3 <= lr <= 1.0 for lr in lrs)


def test_with_ten_lanes_six_probes_run_at_once_and_the_seventh_waits_for_all():
    machine, answer = rules(config(), parallel_probes=10), u_shaped(0.1)
    state, commands = advance(machine, RunState(), Ready(0))
    assert [command.index for command in commands if isinstance(command, Probe)] == list(range(6))
    for command in reversed(commands[1:]):
        state, new = advance(machine, state, answer(command))
        assert new == ()
    state, new = advance(machine, state, answer(commands[0]))
    assert new
    assert isinstance(new[0], Probe)
    assert (new[0].index, new[0].steps) == (6, 50)


def test_with_ten_lanes_the_three_long_probes_run_at_once_and_again_after_a_replay():
    machine, answer = rules(config(), parallel_probes=10), u_shaped(0.1)
    state, commands = advance(machine, RunState(), Ready(0))
    for command in commands:
        state, _ = advance(machine, state, answer(command))
    new = outstanding(state)
    assert [command.index for command in new if isinstance(command, Probe)] == [6, 7, 8]
