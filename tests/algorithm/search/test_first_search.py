"""What the searches before the first step share: the weighted mean, retreats, and lanes."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_autolrs.algorithm.search.first_search import weighted_mean_lr
from ray_autolrs.algorithm.search.strategy import MOST_RETREATS
from ray_autolrs.algorithm.stages.messages import Probe
from ray_autolrs.algorithm.stages.phases import Applying
from ray_autolrs.algorithm.stages.rules import rules_of
from ray_autolrs.algorithm.stages.stage_search import Rules, SearchFailedError
from tests.algorithm.made_up_runs import (
    GUESS,
    applied,
    drive,
    fails_when_applied,
    result,
    run_config,
    u_shaped,
)


@pytest.mark.parametrize(
    ("losses", "initial_loss", "mean"),
    [
        ([1.0, 1.0, 1.0], 2.0, 0.1),
        ([1.0, 1.03, 9.0], 2.0, 10 ** -(2 - 1 / (1 + math.e))),  # weights 1, 1/e and 0
        ([1.0, 1.06, 9.0], 3.0, 10 ** -(2 - 1 / (1 + math.e))),  # twice the loss gained
        ([9.0, 9.0, 1.0], 2.0, 1.0),
        ([1.0, 1.03, 9.0], 0.5, 10 ** -(2 - 1 / (1 + math.e))),  # nothing gained: of the loss
        ([1.0, 1.03, 9.0], math.nan, 10 ** -(2 - 1 / (1 + math.e))),
        ([1.0, None, 1.0], 2.0, 0.1),
    ],
)
def test_weighted_mean(losses, initial_loss, mean):
    results = [
        result(i, lr, loss)
        for i, (lr, loss) in enumerate(zip([0.01, 0.1, 1.0], losses, strict=True))
    ]
    judged = [r for r in results if r.forecast is not None]
    assert weighted_mean_lr(judged, initial_loss, 0.03) == pytest.approx(mean, rel=1e-9)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(losses=st.lists(st.floats(-5, 5), min_size=3, max_size=3), shift=st.floats(-3, 3))
def test_weighted_mean_lies_between_and_does_not_see_a_shift_of_the_loss(losses, shift):
    lrs = [0.01, 0.1, 1.0]
    near = [result(i, lr, loss) for i, (lr, loss) in enumerate(zip(lrs, losses, strict=True))]
    moved = [
        result(i, lr, loss + shift) for i, (lr, loss) in enumerate(zip(lrs, losses, strict=True))
    ]
    mean = weighted_mean_lr(near, 10.0, 0.03)
    assert 0.01 * (1 - 1e-9) <= mean <= 1 + 1e-9
    assert weighted_mean_lr(moved, 10.0 + shift, 0.03) == pytest.approx(mean, rel=1e-6)


def test_a_higher_temperature_weighs_more_alike():
    near = [result(0, 0.01, 1.0), result(1, 1.0, 1.1)]
    means = [weighted_mean_lr(near, 2.0, temperature) for temperature in (1e-4, 0.05, 0.5, 1e6)]
    assert means == sorted(means)
    assert means[0] == pytest.approx(0.01)
    assert means[-1] == pytest.approx(0.1, rel=1e-3)


# Whole runs, by each search -----------------------------------------------------------------

SEARCHES = ["bracket", "halving"]


def rules(parallel_probes=1, **overrides) -> Rules:
    return rules_of(run_config(**overrides), parallel_probes)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("overrides", [{}, GUESS])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_lr_that_diverges_is_halved(search, overrides, stage):
    _, commands = drive(rules(search=search, **overrides), fails_when_applied(stage, 2))
    tries = applied(commands, stage)
    assert tries == pytest.approx([tries[0], tries[0] / 2, tries[0] / 4])


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("overrides", [{}, GUESS])
def test_a_run_is_given_up_after_the_last_retreat(search, overrides):
    machine = rules(search=search, **overrides)
    _, commands = drive(machine, fails_when_applied(1, MOST_RETREATS))
    assert len(applied(commands, 1)) == MOST_RETREATS + 1
    with pytest.raises(SearchFailedError, match="every LR tried in stage 1 diverged"):
        drive(machine, fails_when_applied(1, MOST_RETREATS + 1))


@pytest.mark.parametrize("search", SEARCHES)
def test_where_every_lr_diverges_the_run_is_given_up(search):
    with pytest.raises(SearchFailedError, match="every LR tried in stage 1 diverged"):
        drive(rules(search=search), u_shaped(0.1, diverges_at=1e-9))


@settings(derandomize=True, max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    parallel_probes=st.sampled_from([1, 2, 3, 10]),
    best=st.sampled_from([0.0005, 0.004, 0.05, 0.4, 5.0]),
    search=st.sampled_from(SEARCHES),
    overrides=st.sampled_from([{}, {"averaging": "none"}, {**GUESS, "first_lr": 0.03}]),
)
def test_neither_lanes_nor_their_speed_change_the_schedule(
    seed, parallel_probes, best, search, overrides
):
    answer = u_shaped(best, diverges_at=8 * best)
    overrides = {"total_steps": 300, **overrides}
    expected, one_by_one = drive(rules(search=search, **overrides), answer)
    state, commands = drive(
        rules(parallel_probes, search=search, **overrides), answer, random.Random(seed)
    )
    assert state.segments == expected.segments
    assert {(c.stage, c.index, c.segment) for c in commands if isinstance(c, Probe)} == {
        (c.stage, c.index, c.segment) for c in one_by_one if isinstance(c, Probe)
    }
    results = [
        sorted(p.results, key=lambda r: r.index) for p in state.past if isinstance(p, Applying)
    ]
    assert results == [list(p.results) for p in expected.past if isinstance(p, Applying)]
