from __future__ import annotations

import itertools

import pytest

from ray_autolrs.algorithm.schedules.stage_plan import (
    Stage,
    Stages,
    closing_stage,
    next_stage,
    plan_stages,
)

PAPER = Stages(first_steps=1000, longest_steps=8000)


@pytest.mark.parametrize(
    ("stages", "total_steps", "first_step", "expected"),
    [
        # (first step, steps, whether stages still grow)
        (PAPER, 1000, 0, [(0, 1000, True)]),
        (
            PAPER,
            31_000,
            0,
            [
                (0, 1000, True),
                (1000, 2000, True),
                (3000, 4000, True),
                (7000, 8000, True),
                (15000, 8000, False),
                (23000, 8000, False),
            ],
        ),
        # A rest shorter than the first stage lengthens the stage before it.
        (PAPER, 3999, 0, [(0, 1000, True), (1000, 2999, True)]),
        # A longer one is a stage that the run's end cuts.
        (PAPER, 4000, 0, [(0, 1000, True), (1000, 2000, True), (3000, 1000, True)]),
        (
            Stages(first_steps=100, longest_steps=8000),
            350,
            50,
            [(50, 100, True), (150, 200, True)],
        ),
        (
            Stages(first_steps=100, longest_steps=100, growth=1),
            300,
            0,
            [(0, 100, True), (100, 100, False), (200, 100, False)],
        ),
        # Growth that jumps over the longest stage stops at it.
        (Stages(first_steps=100, longest_steps=150), 250, 0, [(0, 100, True), (100, 150, True)]),
    ],
)
def test_plan(stages, total_steps, first_step, expected):
    planned = plan_stages(stages, total_steps, first_step=first_step)
    assert [(stage.first_step, stage.steps, stage.grows) for stage in planned] == expected
    assert [stage.number for stage in planned] == list(range(1, len(planned) + 1))


@pytest.mark.parametrize("total_steps", range(1000, 20_000, 977))
def test_stages_cover_the_run_without_gap(total_steps):
    planned = plan_stages(PAPER, total_steps)
    assert planned[0].first_step == 0
    assert all(one.last_step + 1 == two.first_step for one, two in itertools.pairwise(planned))
    assert planned[-1].last_step == total_steps - 1


def test_without_an_end_there_is_always_another():
    stages, stage, lengths = Stages(first_steps=10, longest_steps=40), None, []
    for _ in range(5):
        stage = next_stage(stages, None, stage, first_step=3)
        assert stage is not None
        lengths.append((stage.first_step, stage.steps))
    assert lengths == [(3, 10), (13, 20), (33, 40), (73, 40), (113, 40)]


@pytest.mark.parametrize(
    ("given", "total_steps", "lengths"),
    [
        (Stages(), 2300, (138, 575)),
        (Stages(), 100, (20, 25)),
        (Stages(), 10, (10, 10)),
        (Stages(), None, (1000, 1000)),
        (Stages(first_steps=700), 2300, (700, 700)),
        (Stages(longest_steps=200), 2300, (138, 200)),
        (Stages(growth=1), 2300, (138, 138)),
        (Stages(first_steps=7, longest_steps=9), 2300, (7, 9)),
    ],
)
def test_lengths_are_filled_in(given, total_steps, lengths):
    resolved = given.resolve(total_steps)
    assert (resolved.first_steps, resolved.longest_steps) == lengths
    assert resolved.growth == given.growth


@pytest.mark.parametrize(
    ("fraction", "closing"),
    [
        (0.0, None),
        (0.25, Stage(3, 300, 100, grows=False)),
        (0.5, Stage(3, 300, 300, grows=False)),
        (1e-6, Stage(3, 300, 1, grows=False)),
    ],
)
def test_the_closing_stage_is_a_part_of_the_finished_run(fraction, closing):
    assert closing_stage(Stage(2, 100, 200, grows=False), fraction) == closing
