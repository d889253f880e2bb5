"""When a later stage is searched, on simulated quadratics, and what the probes then decide."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.algorithm.schedules.stage_plan import Stage, Stages, plan_stages
from ray_autolrs.algorithm.search.bracket import Bracket
from ray_autolrs.algorithm.search.research import (
    LAST_RESEARCHED_STAGE,
    RESEARCHED_STAGE,
    Research,
    probe_steps,
)
from ray_autolrs.algorithm.search.strategy import Choice, PastStage, StageContext
from tests.algorithm.made_up_runs import result, run_facts

CURVATURES = np.geomspace(1e-4, 1.0, 100)
START = CURVATURES**-0.4
GOOD_LR = 0.1
INTERVAL = (1e-4, 10.0)
RESEARCH = Research()
FACTOR = 3.0
"""Of the default."""

STAGES = Stages().resolve(1000)
SHAPE = WarmupStableDecay(0, None, 200, 0, 0.5)


@functools.cache
def simulated(lr, noise, stage=RESEARCHED_STAGE, moved=False, stages=STAGES, total_steps=1000):
    """The context of a stage after Schedule-Free SGD on a quadratic at one LR, or at two."""
    generator = np.random.default_rng(0)
    facts = run_facts(total_steps=total_steps, lr=INTERVAL, shape=SHAPE)
    planned = plan_stages(stages, total_steps)
    past = []
    z = x = START
    total = 0.0
    for done in planned[: stage - 1]:
        applied = lr / FACTOR if moved and done.number < stage - 1 else lr
        losses = []
        for step in range(done.first_step, done.first_step + done.steps):
            y = 0.2 * z + 0.8 * x
            losses.append(0.5 + 0.5 * float(CURVATURES @ y**2) + 0.01 * generator.normal())
            rate = applied * SHAPE.factor(step)
            gradient_noise = noise * np.sqrt(CURVATURES) * generator.normal(size=100)
            z = z - rate * (CURVATURES * y + gradient_noise)
            total += (weight := (step + 1) * rate**2)
            x = x + weight / total * (z - x)
        past.append(PastStage(done, applied, (), tuple(losses)))
    return StageContext(
        planned[stage - 1], facts, tuple(past), initial_loss=past[0].training_losses[0]
    )


@pytest.mark.parametrize(
    ("lr", "noise", "tried"),
    [
        (GOOD_LR / 30, 0.05, [GOOD_LR / 30, GOOD_LR / 10]),  # far too low
        (GOOD_LR / 8, 0.05, [GOOD_LR / 8, FACTOR * GOOD_LR / 8]),
        (10 * GOOD_LR, 10.0, []),  # three times as high would end a tenth worse
    ],
)
def test_an_lr_that_is_far_too_low_is_tried_against_a_higher_one(lr, noise, tried):
    assert list(RESEARCH.lrs_to_try(simulated(lr, noise), INTERVAL)) == pytest.approx(tried)


def test_the_other_lr_is_the_factor_away():
    lr = GOOD_LR / 30
    assert Research(factor=2.0).lrs_to_try(simulated(lr, 0.05), INTERVAL) == (lr, 2.0 * lr)


def test_what_is_tried_lies_within_the_interval():
    lr = GOOD_LR / 30
    context = simulated(lr, 0.05)
    assert RESEARCH.lrs_to_try(context, (1e-4, 2 * lr)) == pytest.approx([lr, 2 * lr])
    assert RESEARCH.lrs_to_try(context, (1e-4, 1.4 * lr)) == ()


@pytest.mark.parametrize("stage", range(2, LAST_RESEARCHED_STAGE + 2))
@pytest.mark.parametrize("moved", [False, True])
def test_one_stage_is_looked_at_and_the_next_as_long_as_the_lr_moves(stage, moved):
    stages = Stages(longest_steps=150).resolve(1000)
    assert len(plan_stages(stages, 1000)) > LAST_RESEARCHED_STAGE
    context = simulated(GOOD_LR / 30, 0.05, stage, moved, stages)
    is_looked_at = stage == RESEARCHED_STAGE or (
        moved and RESEARCHED_STAGE < stage <= LAST_RESEARCHED_STAGE
    )
    assert bool(RESEARCH.lrs_to_try(context, INTERVAL)) == is_looked_at


def test_a_run_that_has_hardly_begun_is_not_searched():
    stages = Stages(first_steps=4).resolve(60)
    context = simulated(GOOD_LR / 30, 0.05, stages=stages, total_steps=60)
    assert context.stage.first_step < 24
    assert RESEARCH.lrs_to_try(context, INTERVAL) == ()


def test_the_strategy_asks_for_both_lrs_with_the_run_s_shape():
    context = simulated(GOOD_LR / 30, 0.05)
    asked: list[float] = []
    while (candidate := Bracket(probe_steps=21).suggest(context, (), asked)) is not None:
        assert candidate.shape == SHAPE
        assert (candidate.steps, candidate.evals) == (probe_steps(1000, context.stage), 1)
        asked.append(candidate.peak_lr)
    assert asked == pytest.approx([GOOD_LR / 30, GOOD_LR / 10])
    assert Bracket(probe_steps=21, research=None).suggest(context, (), ()) is None


@pytest.mark.parametrize(
    ("total_steps", "stage", "steps"),
    [
        (1000, Stage(3, 180, 240), 50),
        (1000, Stage(5, 670, 7), 7),  # they fit into the stage
        (None, Stage(3, 400, 400), 40),
    ],
)
def test_steps_of_a_probe(total_steps, stage, steps):
    assert probe_steps(total_steps, stage) == steps


# What the probes decide -------------------------------------------------------------------

GAINED = 1.0
NOW = 0.1


def decided(stay, move, research=RESEARCH):
    """What a stage applies after its two probes ended at these losses, None for diverged."""
    first, _, third, *_ = plan_stages(STAGES, 1000)
    context = StageContext(
        third,
        run_facts(total_steps=1000),
        (PastStage(first, NOW, ()),),
        initial_loss=(1.0 if stay is None else stay) + GAINED,
    )
    told = [result(0, NOW, stay), result(1, FACTOR * NOW, move)]
    return Bracket(probe_steps=21, research=research).choose(context, told, ())


STAYS, MOVES = Choice(NOW, 0), Choice(FACTOR * NOW, 1)


@pytest.mark.parametrize(
    ("stay", "move", "choice"),
    [
        (1.0, 1.0 - 1.1 * 0.002 * GAINED, MOVES),
        (1.0, 1.0 - 0.9 * 0.002 * GAINED, STAYS),
        (1.0, 1.1, STAYS),
        (1.0, None, STAYS),
        (None, 1.0, Choice(NOW / 2)),  # an LR that diverged is not applied
        (None, None, Choice(NOW / 2)),
    ],
)
def test_the_lr_moves_where_the_other_wins_clearly(stay, move, choice):
    assert decided(stay, move) == choice


def test_hysteresis_is_a_part_of_the_loss_gained():
    assert decided(1.0, 0.97, Research(hysteresis=0.02)) == MOVES
    assert decided(1.0, 0.97, Research(hysteresis=0.04)) == STAYS


def test_a_stage_that_was_not_probed_goes_on():
    context = simulated(GOOD_LR / 30, 0.05)
    now = context.past[-1].peak_lr
    assert Bracket(probe_steps=21).choose(context, (), ()) == Choice(now)
    assert Bracket(probe_steps=21).choose(context, (), (now,)) == Choice(now / 2)


def test_the_probe_of_the_lr_in_use_is_the_first_whatever_its_last_bit():
    context = simulated(GOOD_LR / 30, 0.05)
    off = math.nextafter(context.past[-1].peak_lr, 1.0)
    told = [result(0, off, 1.0), result(1, FACTOR * off, 1.1)]
    assert Bracket(probe_steps=21).choose(context, told, ()) == Choice(off, 0)
