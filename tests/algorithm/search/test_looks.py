"""When a staged run looks for another LR, in which direction, and what the probes then decide."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.algorithm.schedules.stage_plan import Stages, plan_stages
from ray_autolrs.algorithm.search.bracket import Bracket
from ray_autolrs.algorithm.search.looks import FIRST_LOOK, MOST_OTHERS, Looks
from ray_autolrs.algorithm.search.research import probe_steps
from ray_autolrs.algorithm.search.strategy import (
    Choice,
    Divergence,
    Observation,
    PastStage,
    StageContext,
)
from tests.algorithm.made_up_runs import result, run_facts

NOW = 0.1
SHAPE = WarmupStableDecay(0, None, 200, 0, 0.5)
STAGES = Stages(first_steps=100, growth=1).resolve(1000)
PLANNED = plan_stages(STAGES, 1000)
STRAIGHT, WINDING = 1.3, 0.8
SEARCH = Bracket(probe_steps=21, research=Looks(budget=0.2))  # two looks of two others


def losses(seed, level=1.0):
    return tuple((level + 0.02 * np.random.default_rng(seed).normal(size=100)).tolist())


def context_of(stage, directness=WINDING, *, lrs=None, looks=None, levels=None, initial_loss=3.0):
    """A stage after others.

    Args:
        lrs: of the stages before it.
        looks: the losses of their probes, by stage; the LRs of these are octaves apart.
        levels: their training losses, by stage.
    """
    past = []
    for done in PLANNED[: stage - 1]:
        lr = (lrs or {}).get(done.number, NOW)
        probes = tuple(
            result(place, 0.1 * 2.0**octaves, loss)
            for place, (octaves, loss) in enumerate((looks or {}).get(done.number, ()))
        )
        series = losses(done.number, (levels or {}).get(done.number, 1.0))
        past.append(PastStage(done, lr, probes, series, directness))
    facts = run_facts(total_steps=1000, lr=(1e-3, 10.0), shape=SHAPE)
    return StageContext(PLANNED[stage - 1], facts, tuple(past), initial_loss)


def looked(context, ends, search=SEARCH):
    """The octaves that are tried, where probes end at the losses of these octaves, and the choice.

    An LR without a loss diverges.
    """
    told: list[Observation] = []
    octaves = []
    while (candidate := search.suggest(context, told, ())) is not None:
        assert candidate.shape == SHAPE
        assert (candidate.steps, candidate.evals) == (probe_steps(1000, context.stage), 1)
        octaves.append(round(float(np.log2(candidate.peak_lr / NOW)), 1))
        told.append(result(len(told), candidate.peak_lr, ends.get(octaves[-1])))
    choice = search.choose(context, told, ())
    assert choice is not None
    return octaves, round(float(np.log2(choice.peak_lr / NOW)), 1), choice.probe


@pytest.mark.parametrize(
    ("directness", "ends", "tried", "won", "probe"),
    [
        # upwards, as the default does
        (STRAIGHT, {0: 1.0, 1: 1.1}, [0, 1], 0, 0),
        (STRAIGHT, {0: 1.0, 1: 0.9, 3: 0.95}, [0, 1, 3], 1, 1),
        (STRAIGHT, {0: 1.0, 1: 0.9, 3: 0.8, 6: 0.7}, [0, 1, 3], 3, 2),
        (STRAIGHT, {0: 1.0, 1: 1.0}, [0, 1], 0, 0),
        (STRAIGHT, {0: 1.0}, [0, 1], 0, 0),
        # downwards, by the margin
        (WINDING, {0: 1.0, -1: 0.99}, [0, -1], 0, 0),
        (WINDING, {0: 1.0, -1: 0.97, -3: 0.96}, [0, -1, -3], -1, 1),
        (WINDING, {0: 1.0, -1: 0.9, -3: 0.8, -6: 0.7}, [0, -1, -3], -3, 2),
        # an LR that diverged is not applied, though nothing won over it
        (WINDING, {-1: 1.0}, [0, -1], -1, None),
    ],
)
def test_the_first_look(directness, ends, tried, won, probe):
    assert looked(context_of(FIRST_LOOK, directness), ends) == (tried, won, probe)
    assert len(tried) <= 1 + MOST_OTHERS


def test_no_look_without_a_known_directness():
    assert looked(context_of(FIRST_LOOK, None), {}) == ([], 0, None)


@pytest.mark.parametrize("stage", [2, *range(FIRST_LOOK + 1, 11)])
def test_a_stage_that_goes_as_foreseen_is_not_looked_at(stage):
    assert looked(context_of(stage), {}) == ([], 0, None)


@pytest.mark.parametrize(
    ("lr", "octaves", "ends", "tried"),
    [
        (0.2, [(0, 1.0), (1, 0.9), (3, 0.95)], {1: 1.0, 2: 0.9, 4: 1.0}, [1, 2, 4]),
        (0.05, [(0, 1.0), (-1, 0.9), (-3, 0.95)], {-1: 1.0, -2: 1.0}, [-1, -2]),
        (0.1, [(0, 1.0), (1, 1.1)], {}, []),
    ],
)
def test_the_stage_after_one_that_moved_the_lr_looks_in_its_direction(lr, octaves, ends, tried):
    context = context_of(FIRST_LOOK + 1, lrs={3: lr}, looks={3: octaves}, levels={3: 5.0})
    assert looked(context, ends)[0] == tried


@pytest.mark.parametrize(
    ("ends", "tried", "won", "probe"),
    [
        ({0: 1.0, 1: 0.9, 3: 1.0}, [0, 1, 3], 1, 1),
        ({0: 1.0, 1: 1.1, -1: 0.9}, [0, 1, -1], -1, 2),
        ({0: 1.0, 1: 1.1, -1: 0.99}, [0, 1, -1], 0, 0),
    ],
)
def test_after_a_stage_that_was_not_foreseen_both_directions_are_tried(ends, tried, won, probe):
    context = context_of(6, levels={5: 1.5})
    assert looked(context, ends) == (tried, won, probe)
    assert looked(context_of(7, levels={5: 1.5, 6: 1.5}), ends)[0] == []


def test_downwards_first_where_the_way_of_the_weights_has_become_winding():
    context = context_of(6, levels={5: 1.5})
    before, latest = context.past[-2:]
    for directness, tried in ((0.9 * WINDING, [0, 1, -1]), (0.7 * WINDING, [0, -1, 1])):
        latest = dataclasses.replace(latest, directness=directness)
        changed = dataclasses.replace(context, past=(*context.past[:-2], before, latest))
        assert looked(changed, {0: 1.0, 1: 1.1, -1: 1.1}) == (tried, 0, 0)


def test_no_look_in_the_last_quarter():
    assert looked(context_of(8, levels={7: 1.5}), {0: 1.0, 1: 1.1, -1: 1.1})[0] == [0, 1, -1]
    assert looked(context_of(9, levels={8: 1.5}), {})[0] == []


@pytest.mark.parametrize(
    ("budget", "tried"), [(0.2, [0, 1]), (0.15, []), (0.25, [0, 1, 3]), (0.9, [0, 1, 3])]
)
def test_looks_end_with_the_budget(budget, tried):
    """The first look has spent 150 of 1000 steps, 50 a probe."""
    context = context_of(6, looks={3: [(0, 1.0), (1, 1.1), (2, 1.1), (3, 1.1)]}, levels={5: 1.5})
    search = Bracket(probe_steps=21, research=Looks(budget=budget))
    ends = {octaves: 1.0 - 0.1 * octaves for octaves in range(5)}
    assert looked(context, ends, search)[0] == tried


def test_no_lr_is_higher_than_the_interval_s_end():
    context = context_of(FIRST_LOOK, STRAIGHT)
    facts = dataclasses.replace(context.facts, lr=(1e-3, 0.35))
    ends = {0: 1.0, 1: 0.9, 1.8: 0.8}
    assert looked(dataclasses.replace(context, facts=facts), ends) == ([0, 1, 1.8], 1.8, 2)
    facts = dataclasses.replace(context.facts, lr=(1e-3, 0.14))
    assert looked(dataclasses.replace(context, facts=facts), ends)[0] == []


def test_the_first_two_may_run_at_once_and_others_wait():
    context = context_of(6, levels={5: 1.5})
    second = SEARCH.suggest(context, (), (NOW,))
    assert second is not None
    assert second.peak_lr == 2 * NOW
    assert SEARCH.suggest(context, (), (NOW, 2 * NOW)) is None
    assert SEARCH.suggest(context, (result(0, NOW, 1.0),), (2 * NOW,)) is None


def test_a_divergence_is_recovered_from_as_by_default():
    context = dataclasses.replace(
        context_of(FIRST_LOOK), diverged=(Divergence(NOW, steps=30, probes=0),)
    )
    tried, won, probe = looked_below(context)
    assert [lr / before for before, lr in pairwise(tried)] == pytest.approx([1 / 3])
    assert tried[0] == pytest.approx(NOW / 2)
    assert (won, probe) == (tried[0], 0)


def looked_below(context):
    told: list[Observation] = []
    while (candidate := SEARCH.suggest(context, told, ())) is not None:
        told.append(result(len(told), candidate.peak_lr, 1.0 + len(told)))
    choice = SEARCH.choose(context, told, ())
    assert isinstance(choice, Choice)
    return [one.peak_lr for one in told], choice.peak_lr, choice.probe


def test_a_higher_lr_may_lie_above_at_the_first_look_where_that_is_asked_for():
    context = context_of(FIRST_LOOK, STRAIGHT)
    told = [result(0, NOW, 1.0), result(1, 2 * NOW, 1.01)]
    assert Looks().winner(context, told) == 0
    assert Looks(tolerance=0.02).winner(context, told) == 1
