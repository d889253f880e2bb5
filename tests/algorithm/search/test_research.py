"""When a later stage is searched, on simulated quadratics, and what the probes then decide."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ray_autolrs.algorithm.schedules.run_shape import run_shape
from ray_autolrs.algorithm.schedules.stage_plan import plan_stages
from ray_autolrs.algorithm.search.bracket import BracketStrategy
from ray_autolrs.algorithm.search.research import (
    FACTOR,
    HYSTERESIS,
    LAST_RESEARCHED_STAGE,
    RESEARCHED_STAGE,
    chosen_lr,
    lrs_to_try,
    reprobe_steps,
)
from ray_autolrs.algorithm.search.strategy import Observation, PastStage, StageContext
from tests.algorithm.made_up_runs import result, run_config

CURVATURES = np.geomspace(1e-4, 1.0, 100)
START = CURVATURES**-0.4
GOOD_LR = 0.1
INTERVAL = (1e-4, 10.0)


def config(**overrides):
    return run_config(**({"total_steps": 1000, "lr_min": 1e-4, "lr_max": 10.0} | overrides))


def simulated(settings, lr, noise, stage=RESEARCHED_STAGE, moved=False):
    """The context of a stage after Schedule-Free SGD on a quadratic at one LR, or at two."""
    generator = np.random.default_rng(0)
    stages = plan_stages(settings)
    shape = run_shape(settings)
    past = []
    z = x = START
    total = 0.0
    for done in stages[: stage - 1]:
        applied = lr / FACTOR if moved and done.number < stage - 1 else lr
        losses = []
        for step in range(done.first_step, done.first_step + done.steps):
            y = 0.2 * z + 0.8 * x
            losses.append(0.5 + 0.5 * float(CURVATURES @ y**2) + 0.01 * generator.normal())
            rate = applied * shape.factor(step)
            gradient_noise = noise * np.sqrt(CURVATURES) * generator.normal(size=100)
            z = z - rate * (CURVATURES * y + gradient_noise)
            total += (weight := (step + 1) * rate**2)
            x = x + weight / total * (z - x)
        past.append(PastStage(done, applied, (), tuple(losses)))
    return StageContext(stages[stage - 1], tuple(past), initial_loss=past[0].losses[0])


@pytest.mark.parametrize(
    ("lr", "noise", "tried"),
    [
        (GOOD_LR / 30, 0.05, [GOOD_LR / 30, GOOD_LR / 10]),  # far too low
        (GOOD_LR / 8, 0.05, [GOOD_LR / 8, FACTOR * GOOD_LR / 8]),
        (10 * GOOD_LR, 10.0, []),  # three times as high would end a tenth worse
    ],
)
def test_an_lr_that_is_far_too_low_is_tried_against_a_higher_one(lr, noise, tried):
    settings = config()
    lrs = lrs_to_try(settings, simulated(settings, lr, noise), INTERVAL)
    assert list(lrs) == pytest.approx(tried)


def test_what_is_tried_lies_within_the_interval():
    settings = config()
    context = simulated(settings, GOOD_LR / 30, 0.05)
    lr = GOOD_LR / 30
    assert lrs_to_try(settings, context, (1e-4, 2 * lr)) == pytest.approx([lr, 2 * lr])
    assert lrs_to_try(settings, context, (1e-4, 1.4 * lr)) == ()


@pytest.mark.parametrize("stage", range(2, LAST_RESEARCHED_STAGE + 2))
@pytest.mark.parametrize("moved", [False, True])
def test_one_stage_is_looked_at_and_the_next_as_long_as_the_lr_moves(stage, moved):
    settings = config(max_stage_steps=150)
    assert len(plan_stages(settings)) > LAST_RESEARCHED_STAGE
    context = simulated(settings, GOOD_LR / 30, 0.05, stage, moved)
    is_looked_at = stage == RESEARCHED_STAGE or (
        moved and RESEARCHED_STAGE < stage <= LAST_RESEARCHED_STAGE
    )
    assert bool(lrs_to_try(settings, context, INTERVAL)) == is_looked_at


def test_a_run_that_has_hardly_begun_is_not_searched():
    settings = config(total_steps=60, first_stage_steps=4)
    assert plan_stages(settings)[RESEARCHED_STAGE - 1].first_step < 24
    assert lrs_to_try(settings, simulated(settings, GOOD_LR / 30, 0.05), INTERVAL) == ()


def test_the_strategy_asks_for_both_lrs_with_the_run_s_shape():
    settings = config()
    strategy = BracketStrategy(settings)
    context = simulated(settings, GOOD_LR / 30, 0.05)
    asked: list[float] = []
    while (candidate := strategy.suggest(context, (), asked)) is not None:
        assert candidate.shape == run_shape(settings)
        assert (candidate.steps, candidate.evals) == (reprobe_steps(settings, context.stage), 1)
        asked.append(candidate.lr)
    assert asked == pytest.approx([GOOD_LR / 30, GOOD_LR / 10])


def test_steps_of_a_probe_fit_into_its_stage():
    settings = config(total_steps=1000)
    stage = plan_stages(settings)[-1]
    assert reprobe_steps(settings, replace(stage, steps=7)) == 7
    endless = config(total_steps=None)
    assert reprobe_steps(endless, replace(stage, first_step=400, steps=400)) == 40


# What the probes decide -------------------------------------------------------------------

GAINED = 1.0
NOW = 0.1


def probed(stay, move):
    context = StageContext(
        plan_stages(config())[2],
        (PastStage(plan_stages(config())[0], NOW, ()),),
        initial_loss=(1.0 if stay is None else stay) + GAINED,
    )
    results: list[Observation] = [result(0, NOW, stay), result(1, FACTOR * NOW, move)]
    return chosen_lr(context, [one for one in results if one.forecast is not None])


@pytest.mark.parametrize(
    ("stay", "move", "moves"),
    [
        (1.0, 1.0 - 1.1 * HYSTERESIS * GAINED, True),
        (1.0, 1.0 - 0.9 * HYSTERESIS * GAINED, False),
        (1.0, 1.1, False),
        (1.0, None, False),
        (None, 1.0, False),
        (None, None, False),
    ],
)
def test_the_lr_moves_where_the_other_wins_clearly(stay, move, moves):
    assert probed(stay, move) == (FACTOR * NOW if moves else NOW)


def test_an_lr_whose_probe_diverged_is_not_applied():
    """Where going on diverged, the LR is halved, though its probe was no first search's."""
    settings = config()
    context = simulated(settings, GOOD_LR / 30, 0.05)
    now = context.past[-1].lr
    told = [result(0, now), result(1, FACTOR * now)]
    assert BracketStrategy(settings).choose(context, told) == pytest.approx(now / 2)
    assert math.isclose(now, GOOD_LR / 30)
