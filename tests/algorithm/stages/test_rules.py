from __future__ import annotations

import math

import pytest

from ray_autolrs.algorithm.search.bracket import BracketStrategy
from ray_autolrs.algorithm.search.halving import HalvingStrategy
from ray_autolrs.algorithm.search.midpoints import MidpointsStrategy
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import ApplyDone, Probe, ProbeDone, Ready
from ray_autolrs.algorithm.stages.phases import Finished, RunState
from ray_autolrs.algorithm.stages.rules import most_parallel_probes, planned_probe_steps, rules_of
from ray_autolrs.config import AutoLRSConfig

SHORT = {"lr_min": 1e-3, "lr_max": 1.0}
STAGES = {"first_stage_steps": 200, "max_stage_steps": 400, "probes_per_stage": 5}


@pytest.mark.parametrize(
    ("overrides", "strategy", "most"),
    [
        ({}, BracketStrategy, 2),
        ({"probes_per_stage": 4}, BracketStrategy, 2),
        ({"search": "halving", "probes_per_stage": 4}, HalvingStrategy, 6),
        ({"search": "midpoints"}, MidpointsStrategy, 10),
        ({"search": "midpoints", "probes_per_stage": 4}, MidpointsStrategy, 4),
    ],
)
def test_the_search_is_the_one_that_is_named(overrides, strategy, most):
    config = AutoLRSConfig(total_steps=2000, **(SHORT | overrides))
    rules = rules_of(config, parallel_probes=3)
    assert type(rules.strategy) is strategy
    assert (rules.config, rules.parallel_probes) == (config, 3)
    assert most_parallel_probes(config) == most


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ({}, 4 * 50),
        ({"total_steps": 7000}, 4 * 100),
        ({"averaging": "none"}, 4 * 75),
        ({"shape": "cosine", "averaging": "tail"}, 200),
        ({"search": "halving"}, 270),
        ({"search": "halving", "total_steps": 7000}, 6 * 38 + 3 * 95),
        ({"search": "halving", "averaging": "none"}, 6 * 20 + 3 * 60),
        (
            {"search": "midpoints", "averaging": "none", "total_steps": 2000, **STAGES},
            5 * (20 + 40 + 40 + 40 + 50),
        ),
        (
            {"search": "midpoints", "warmup_steps": 0, "probe_fraction": 0.2, "total_steps": 2000}
            | STAGES,
            5 * (40 + 80 + 80 + 80 + 80 + 40),
        ),
    ],
)
def test_planned_probe_steps_are_those_of_a_run(overrides, steps):
    config = AutoLRSConfig(**({"total_steps": 2300} | SHORT | overrides))
    rules = rules_of(config)
    state, _ = advance(rules, RunState(), Ready(0))
    probed = 0
    while not isinstance(state.phase, Finished):
        command = outstanding(state)[0]
        if isinstance(command, Probe):
            probed += command.steps
            points = command.evals or command.steps
            off = abs(math.log(command.segment.multiplier / 0.006))
            losses = tuple(2 + off / 10 - step / points for step in range(points))
            done = ProbeDone(command.stage, command.index, losses, False, command.steps, 0.1, 2.5)
            state, _ = advance(rules, state, done)
        else:
            lr = command.segment.multiplier  # type: ignore[union-attr]
            losses = (2.5,) * command.steps  # type: ignore[union-attr]
            state, _ = advance(rules, state, ApplyDone(command.stage, lr, losses, False, 0.1))  # type: ignore[union-attr]
    assert probed == planned_probe_steps(config) == steps
