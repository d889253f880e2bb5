"""The interface: a strategy of one's own needs one small class, and nothing in the package."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from ray_autolrs.algorithm.forecast.forecaster import Forecast
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import Flat, WarmupStableDecay
from ray_autolrs.algorithm.schedules.stage_plan import Stage, Stages
from ray_autolrs.algorithm.search.strategy import (
    Candidate,
    Choice,
    ProbeLosses,
    SearchStrategy,
    validation_interval,
)
from ray_autolrs.algorithm.stages.messages import Probe
from tests.algorithm.made_up_runs import applied, drive, first, run_facts, run_plan, u_shaped


@dataclass(frozen=True, kw_only=True)
class LowestOf(SearchStrategy):
    """Tries some LRs before the first step, all at once, and keeps the best."""

    lrs: tuple[float, ...]
    probe_steps: int = 0

    def resolve(self, facts):
        return replace(self, probe_steps=self.probe_steps or facts.total_steps // 100)

    @property
    def most_parallel_probes(self):
        return len(self.lrs)

    def suggest(self, context, told, running):
        asked = len(told) + len(running)
        if context.past or asked == len(self.lrs):
            return None
        return Candidate(self.lrs[asked], self.probe_steps, 1, context.facts.shape)

    def choose(self, context, told, rejected):
        if context.past:
            return Choice(context.past[-1].peak_lr)
        best = min(told, key=lambda one: one.forecast.loss if one.forecast else math.inf)
        return Choice(best.peak_lr, best.index)


@pytest.mark.parametrize("parallel_probes", [1, 3])
def test_a_strategy_of_ones_own_goes_through_the_machine(parallel_probes):
    plan = run_plan(
        LowestOf(lrs=(0.5, 0.05, 0.01)),
        stages=Stages(first_steps=500, longest_steps=1000),
        parallel_probes=parallel_probes,
        shape=Flat(),
    )
    state, commands = drive(plan, u_shaped(0.04))
    probes = [command for command in commands if isinstance(command, Probe)]
    assert [(probe.stage, probe.segment) for probe in probes] == [
        (1, Segment(0, 19, lr)) for lr in (0.5, 0.05, 0.01)
    ]
    assert applied(commands) == [0.05, 0.05, 0.05]
    assert [segment.last_step for segment in state.segments] == [499, 1499, 1999]


def test_what_a_strategy_need_not_say():
    @dataclass(frozen=True)
    class Least(SearchStrategy):
        def suggest(self, context, told, running):
            return None

        def choose(self, context, told, rejected):
            return Choice(0.1)

    least, facts = Least(), run_facts()
    assert least.resolve(facts) is least
    assert (least.most_parallel_probes, least.planned_steps(facts, ())) == (1, 0)
    assert not least.accepts_guess
    least.check_stage(Stage(1, 0, 1))
    _, commands = drive(run_plan(least), u_shaped(0.1))
    assert {*applied(commands)} == {0.1}


@pytest.mark.parametrize(
    ("losses", "forecast"),
    [
        (ProbeLosses((3.0, 2.0)), 2.0),
        (ProbeLosses((3.0, 2.0), (2.5, 2.25)), 2.25),
    ],
)
def test_a_probe_promises_its_last_loss_if_nothing_else_is_said(losses, forecast):
    candidate = Candidate(0.1, 2, len(losses.validation), Flat())
    judged = LowestOf(lrs=(0.1,)).judge(first(), candidate, losses)
    assert isinstance(judged, Forecast)
    assert (judged.loss, judged.trusted) == (forecast, True)
    assert math.isnan(judged.std)


def test_the_segment_of_a_candidate_begins_where_its_stage_does():
    shape = WarmupStableDecay(0, None, 10, 0)
    assert Candidate(0.3, 20, 0, shape).segment(100) == Segment(100, 119, 0.3, shape)


def test_a_guess_is_no_interval():
    assert run_facts(lr=(0.1, 0.2)).lr_interval == (0.1, 0.2)
    with pytest.raises(AssertionError, match="refuses a guess"):
        _ = run_facts(lr=0.1).lr_interval


@pytest.mark.parametrize(("probe_steps", "interval"), [(100, 6), (16, 1), (8, 1), (800, 50)])
def test_validation_interval(probe_steps, interval):
    assert validation_interval(16, probe_steps) == interval
