from __future__ import annotations

import dataclasses

import pytest

from ray_autolrs.algorithm.schedules.stage_plan import Stages
from ray_autolrs.algorithm.search.gaussian_process import GaussianProcess
from ray_autolrs.algorithm.stages.messages import Probe
from tests.algorithm.made_up_runs import Scripted, drive, run_plan, u_shaped

STAGES = Stages(first_steps=200, longest_steps=400)


def test_stages_follow_each_other_to_the_run_s_end():
    plan = run_plan(Scripted(), stages=STAGES, total_steps=1550, first_step=50)
    planned = plan.all_stages()
    assert [(stage.first_step, stage.steps) for stage in planned] == [
        (50, 200),
        (250, 400),
        (650, 400),
        (1050, 500),
    ]
    assert plan.stage_after(None) == planned[0]
    assert [plan.stage_after(stage) for stage in planned] == [*planned[1:], None]


def test_a_run_without_an_end_has_always_another_stage():
    plan = run_plan(Scripted(), stages=STAGES, total_steps=None)
    stage = plan.stage_after(None)
    for _ in range(10):
        stage = plan.stage_after(stage)
    assert stage is not None
    assert (stage.number, stage.steps) == (11, 400)


@pytest.mark.parametrize(
    ("search", "steps"),
    [
        (GaussianProcess(probes=5), 5 * (20 + 40 + 40 + 40 + 60)),
        (GaussianProcess(probes=2, probe_fraction=0.2), 2 * (40 + 80 + 80 + 80 + 120)),
        (Scripted(), 0),  # one's own need not say
    ],
)
def test_planned_probe_steps(search, steps):
    plan = run_plan(search, stages=STAGES, total_steps=2000)
    assert plan.planned_probe_steps() == steps


def test_planned_probe_steps_are_those_of_a_run():
    """With the search's own lengths, and LRs that are scripted: no fit."""

    @dataclasses.dataclass(frozen=True)
    class Quick(GaussianProcess):
        def _next_lr(self, context, told, running):
            return 0.1 + 0.01 * (len(told) + len(running)), {}

        def judge(self, context, candidate, losses):
            return Scripted().judge(context, candidate, losses)

    plan = run_plan(Quick(probes=5), stages=STAGES, total_steps=2000)
    _, commands = drive(plan, u_shaped(0.1))
    probed = sum(command.steps for command in commands if isinstance(command, Probe))
    assert probed == plan.planned_probe_steps() == 5 * (20 + 40 + 40 + 40 + 60)
