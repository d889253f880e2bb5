"""When a later stage is searched again, what is tried, and what the probes then decide."""

from __future__ import annotations

import math

import pytest

from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.algorithm.schedules.stage_plan import Stage, Stages, plan_stages
from ray_autolrs.algorithm.search.bracket import Bracket
from ray_autolrs.algorithm.search.research import (
    LAST_RESEARCHED_STAGE,
    MOST_RAISES,
    RESEARCHED_STAGE,
    SAMPLE_FACTOR,
    Research,
    probe_steps,
)
from ray_autolrs.algorithm.search.strategy import Choice, Observation, PastStage, StageContext
from tests.algorithm.made_up_runs import result, run_facts

NOW = 0.1
INTERVAL = (1e-4, 10.0)
STAGES = Stages().resolve(1000)
SHAPE = WarmupStableDecay(0, None, 200, 0, 0.5)
STRAIGHT = 1.3
RESEARCH = Research()
SEARCH = Bracket(probe_steps=21)


def context_of(directness, *, stage=RESEARCHED_STAGE, moved=False, stages=STAGES, initial_loss=3.0):
    """A stage after others at one LR, or at half of it until the last one."""
    planned = plan_stages(stages, 1000)
    past = tuple(
        PastStage(
            done, NOW / 2 if moved and done.number < stage - 1 else NOW, (), directness=directness
        )
        for done in planned[: stage - 1]
    )
    facts = run_facts(total_steps=1000, lr=INTERVAL, shape=SHAPE)
    return StageContext(planned[stage - 1], facts, past, initial_loss)


@pytest.mark.parametrize(
    ("directness", "least", "tried"),
    [
        (1.3, 1.2, True),
        (1.2, 1.2, False),
        (0.7, 1.2, False),
        (0.7, 0.0, True),
        (None, 0.0, False),  # nobody has followed the weights
    ],
)
def test_higher_lrs_are_tried_where_the_way_has_been_straight(directness, least, tried):
    research = Research(least_directness=least)
    lrs = research.lrs_to_try(context_of(directness), INTERVAL[1])
    assert lrs == ((NOW, 2 * NOW, 4 * NOW, 8 * NOW) if tried else ())


def test_the_higher_lrs_are_the_factor_apart():
    lrs = Research(factor=3.0).lrs_to_try(context_of(STRAIGHT), INTERVAL[1])
    assert lrs == pytest.approx((NOW, 3 * NOW, 9 * NOW, 27 * NOW))


@pytest.mark.parametrize(
    ("highest", "lrs"),
    [
        (0.1, ()),
        (0.14, ()),  # too near to be worth a probe
        (0.16, (0.1, 0.16)),
        (0.35, (0.1, 0.2, 0.35)),
        (0.2, (0.1, 0.2)),
    ],
)
def test_no_lr_is_higher_than_the_interval_s_end(highest, lrs):
    assert RESEARCH.lrs_to_try(context_of(STRAIGHT), highest) == pytest.approx(lrs)


@pytest.mark.parametrize("stage", range(2, LAST_RESEARCHED_STAGE + 2))
@pytest.mark.parametrize("moved", [False, True])
def test_one_stage_is_looked_at_and_the_next_as_long_as_the_lr_moves(stage, moved):
    stages = Stages(longest_steps=150).resolve(1000)
    assert len(plan_stages(stages, 1000)) > LAST_RESEARCHED_STAGE
    context = context_of(STRAIGHT, stage=stage, moved=moved, stages=stages)
    is_looked_at = stage == RESEARCHED_STAGE or (
        moved and RESEARCHED_STAGE < stage <= LAST_RESEARCHED_STAGE
    )
    assert bool(RESEARCH.lrs_to_try(context, INTERVAL[1])) == is_looked_at


def asked_by(losses, search=SEARCH, directness=STRAIGHT):
    """The LRs that are tried, one after the other, where probes end at these losses."""
    context = context_of(directness)
    told: list[Observation] = []
    while (candidate := search.suggest(context, told, ())) is not None:
        assert candidate.shape == SHAPE
        assert (candidate.steps, candidate.evals) == (probe_steps(1000, context.stage), 1)
        told.append(result(len(told), candidate.peak_lr, losses[len(told)]))
    return told, search.choose(context, told, ())


@pytest.mark.parametrize(
    ("losses", "tried", "won"),
    [
        ([1.0, 1.1], 2, 0),
        ([1.0, None], 2, 0),
        ([None, 1.0], 2, None),  # an LR that diverged is not applied
        ([1.0, 0.9, 0.95], 3, 1),
        ([1.0, 0.9, 0.8, 0.7], 4, 3),  # MOST_RAISES
        ([1.0, 1.01, 1.04], 3, 1),  # within the tolerance, and beyond it
        ([1.0, 1.021], 2, 0),
    ],
)
def test_lrs_are_raised_while_the_higher_one_wins(losses, tried, won):
    told, choice = asked_by(losses)
    assert [one.peak_lr for one in told] == [NOW * 2.0**place for place in range(tried)]
    assert choice == (Choice(NOW / 2) if won is None else Choice(NOW * 2.0**won, won))
    assert len(told) <= 1 + MOST_RAISES


def test_nothing_is_asked_without_research_or_a_straight_way():
    assert asked_by([], Bracket(probe_steps=21, research=None)) == ([], Choice(NOW))
    assert asked_by([], directness=0.9) == ([], Choice(NOW))
    assert SEARCH.reads_directness
    assert not Bracket(research=None).reads_directness


def test_the_first_two_may_run_at_once_and_the_third_waits_for_them():
    context = context_of(STRAIGHT)
    second = SEARCH.suggest(context, (), (NOW,))
    assert second is not None
    assert second.peak_lr == 2 * NOW
    assert SEARCH.suggest(context, (), (NOW, 2 * NOW)) is None
    assert SEARCH.suggest(context, (result(0, NOW, 1.0),), (2 * NOW,)) is None


@pytest.mark.parametrize(
    ("stage", "margin"),
    [(RESEARCHED_STAGE, -RESEARCH.tolerance), (RESEARCHED_STAGE + 1, RESEARCH.hysteresis)],
)
@pytest.mark.parametrize("initial_loss", [3.0, 101.0, 1.5])
def test_a_margin_is_a_part_of_the_loss_or_of_what_was_gained_if_that_is_less(
    stage, margin, initial_loss
):
    context = context_of(STRAIGHT, stage=stage, moved=True, initial_loss=initial_loss)
    needed = margin * min(1.0, initial_loss - 1.0)
    for off, won in ((1e-6, 1), (-1e-6, 0)):
        told = [result(0, NOW, 1.0), result(1, 2 * NOW, 1.0 - needed - off)]
        assert RESEARCH.winner(context, told) == won


def test_a_stage_that_was_not_probed_goes_on():
    context = context_of(STRAIGHT)
    assert SEARCH.choose(context, (), ()) == Choice(NOW)
    assert SEARCH.choose(context, (), (NOW,)) == Choice(NOW / 2)


def test_the_probe_of_the_lr_in_use_is_the_first_whatever_its_last_bit():
    off = math.nextafter(NOW, 1.0)
    told = [result(0, off, 1.0), result(1, 2 * off, 1.1)]
    assert SEARCH.choose(context_of(STRAIGHT), told, ()) == Choice(off, 0)


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


def test_a_probe_is_judged_on_more_samples_than_those_of_the_first_search():
    again = SEARCH.suggest(context_of(STRAIGHT), (), ())
    assert again is not None
    assert again.sample_factor == SAMPLE_FACTOR > 1
