from __future__ import annotations

import itertools

import pytest

from ray_autolrs import AutoLRSConfig
from ray_autolrs.algorithm.schedules.stage_plan import plan_stages, validation_interval


def config(**values):
    return AutoLRSConfig.paper(**({"lr_min": 1e-3, "lr_max": 1.0} | values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # (first step, steps, probe steps, objective)
        ({"total_steps": 1000}, [(0, 1000, 100, "training")]),
        (
            {"total_steps": 31_000},
            [
                (0, 1000, 100, "training"),
                (1000, 2000, 200, "training"),
                (3000, 4000, 400, "training"),
                (7000, 8000, 800, "training"),
                (15000, 8000, 800, "validation"),
                (23000, 8000, 800, "validation"),
            ],
        ),
        # A rest shorter than the first stage lengthens the stage before it.
        ({"total_steps": 3999}, [(0, 1000, 100, "training"), (1000, 2999, 300, "training")]),
        # A longer one is a stage that the run's end cuts.
        (
            {"total_steps": 4000},
            [
                (0, 1000, 100, "training"),
                (1000, 2000, 200, "training"),
                (3000, 1000, 100, "training"),
            ],
        ),
        (
            {
                "total_steps": 350,
                "warmup_steps": 50,
                "first_stage_steps": 100,
                "probe_fraction": 0.2,
            },
            [(50, 100, 20, "training"), (150, 200, 40, "training")],
        ),
        (
            {
                "total_steps": 300,
                "first_stage_steps": 100,
                "max_stage_steps": 100,
                "stage_growth": 1,
            },
            [(0, 100, 10, "training"), (100, 100, 10, "validation"), (200, 100, 10, "validation")],
        ),
        # Growth that jumps over the longest stage stops at it.
        (
            {"total_steps": 250, "first_stage_steps": 100, "max_stage_steps": 150},
            [(0, 100, 10, "training"), (100, 150, 15, "training")],
        ),
    ],
)
def test_plan(values, expected):
    stages = plan_stages(config(**values))
    assert [
        (stage.first_step, stage.steps, stage.probe_steps, stage.objective) for stage in stages
    ] == expected
    assert [stage.number for stage in stages] == list(range(1, len(stages) + 1))


@pytest.mark.parametrize("total_steps", range(1000, 20_000, 977))
def test_stages_cover_the_run_without_gap(total_steps):
    stages = plan_stages(config(total_steps=total_steps))
    assert stages[0].first_step == 0
    assert all(one.last_step + 1 == two.first_step for one, two in itertools.pairwise(stages))
    assert stages[-1].last_step == total_steps - 1
    assert all(stage.probe_steps == round(stage.steps / 10) for stage in stages)


@pytest.mark.parametrize(("probe_steps", "interval"), [(100, 6), (16, 1), (8, 1), (800, 50)])
def test_validation_interval(probe_steps, interval):
    assert validation_interval(16, probe_steps) == interval
