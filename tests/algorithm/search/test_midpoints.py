from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_autolrs.algorithm.forecast.exponential import Forecast
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search.midpoints import MidpointsStrategy, log_midpoints
from ray_autolrs.algorithm.search.strategy import Observation, StageContext
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import ApplyDone, Probe, ProbeDone, Ready
from ray_autolrs.algorithm.stages.phases import Finished, RunState
from ray_autolrs.algorithm.stages.stage_search import Rules
from ray_autolrs.config import AutoLRSConfig

CONTEXT = StageContext(Stage(1, 0, 100, 10, "training"), (), 2.0)


def config(**overrides) -> AutoLRSConfig:
    values: dict[str, Any] = {
        "total_steps": 1000,
        "lr_min": 1e-3,
        "lr_max": 1.0,
        "search": "midpoints",
        "averaging": "none",
        "first_stage_steps": 100,
        "warmup_steps": 0,
    }
    return AutoLRSConfig(**(values | overrides))


def search(strategy, loss, lanes=1) -> list[float]:
    """Probe a function of the LR to the end, told as late as so many lanes allow."""
    told: list[Observation] = []
    asked: list[float] = []
    while True:
        usable = told[: max(0, len(asked) + 1 - lanes)]
        candidate = strategy.suggest(CONTEXT, usable, asked[len(usable) :])
        if candidate is None:
            candidate = strategy.suggest(CONTEXT, told, ())
        if candidate is None:
            return asked
        value = loss(candidate.lr)
        forecast = None if value is None else Forecast(value, 0.0)
        told.append(Observation(len(asked), candidate.lr, forecast))
        asked.append(candidate.lr)


def parabola(best):
    return lambda lr: math.log(lr / best) ** 2


@pytest.mark.parametrize(
    ("count", "lrs"),
    [
        (1, [10**-1.5]),
        (2, [10**-2.25, 10**-0.75]),
        (3, [10**-2.5, 10**-1.5, 10**-0.5]),
        (6, [10 ** (place / 2 - 2.75) for place in range(6)]),
    ],
)
def test_log_midpoints(count, lrs):
    assert log_midpoints(1e-3, 1.0, count) == pytest.approx(lrs)


def test_six_of_ten_are_spread_and_the_others_close_in_on_the_best():
    asked = search(MidpointsStrategy(config()), parabola(10**-1.25))
    assert [math.log10(lr) for lr in asked] == pytest.approx(
        [-2.75, -2.25, -1.75, -1.25, -0.75, -0.25, -1.5, -1.0, -1.375, -1.125]
    )


def test_a_search_follows_a_better_lr():
    asked = search(MidpointsStrategy(config()), parabola(10**-1.47))
    # -1.5 is better than -1.25. Both -1.75 and -1.25 are known by then, so it goes on with half
    # the distance.
    assert [math.log10(lr) for lr in asked[6:]] == pytest.approx([-1.5, -1.625, -1.375, -1.5625])


def test_candidates_begin_as_the_stage_will():
    candidate = MidpointsStrategy(config(shape="wsd")).suggest(CONTEXT, (), ())
    assert candidate is not None
    assert (candidate.steps, candidate.evals) == (10, 0)
    assert candidate.shape.factor(0) == 1.0
    assert candidate.shape.factor(999) == pytest.approx(1 / 300)


def test_where_all_diverged_nothing_is_chosen():
    strategy = MidpointsStrategy(config())
    asked = search(strategy, lambda lr: None)
    assert asked == pytest.approx(log_midpoints(1e-3, 1.0, 6))
    told = [Observation(index, lr, None) for index, lr in enumerate(asked)]
    assert strategy.choose(CONTEXT, told) is None


def test_the_best_is_chosen_the_earlier_of_equals():
    losses = [3.0, None, 1.0, 1.0]
    told = [
        Observation(index, 0.1 * (index + 1), None if loss is None else Forecast(loss, 0.0))
        for index, loss in enumerate(losses)
    ]
    assert MidpointsStrategy(config()).choose(CONTEXT, told) == pytest.approx(0.3)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    low=st.floats(1e-6, 1e-2),
    decades=st.floats(0.5, 5),
    place=st.floats(-0.1, 1.1),
    probes=st.integers(1, 14),
    lanes=st.sampled_from([1, 2, 3, 10]),
)
def test_every_probe_is_new_and_inside_and_the_best_is_found(low, decades, place, probes, lanes):
    high = low * 10**decades
    strategy = MidpointsStrategy(config(lr_min=low, lr_max=high, probes_per_stage=probes))
    best = low * 10 ** (decades * place)
    asked = search(strategy, parabola(best), lanes)
    assert len(asked) == probes
    assert all(low <= lr <= high for lr in asked)
    logs = sorted(map(math.log10, asked))
    assert all(right - left > 1e-4 for left, right in itertools.pairwise(logs))
    inside = min(max(best, low), high)
    spread = max(1, round(0.6 * probes))
    nearest = min(abs(math.log10(lr / inside)) for lr in asked)
    assert nearest <= decades / spread / 2 * (1 + 1e-9)
    if lanes == 1 and probes >= spread + 4:  # two rounds of halving
        assert nearest <= decades / spread / 4 * (1 + 1e-9)


def test_a_whole_run_searches_each_stage():
    machine = Rules(config(), MidpointsStrategy(config()))
    loss = parabola(10**-1.25)
    state, _ = advance(machine, RunState(), Ready(0))
    probes = []
    while not isinstance(state.phase, Finished):
        command = outstanding(state)[0]
        lr = command.segment.multiplier  # type: ignore[union-attr]
        if isinstance(command, Probe):
            probes.append(command.stage)
            losses = [2 - (2 - loss(lr) / 100) * step / 20 for step in range(20)]
            done = ProbeDone(command.stage, command.index, tuple(losses), False, 20, 0.1, 2.5)
            state, _ = advance(machine, state, done)
        else:
            state, _ = advance(machine, state, ApplyDone(command.stage, lr, (2.0,), False, 0.1))  # type: ignore[union-attr]
    stages = len(state.segments)
    assert probes == [stage for stage in range(1, stages + 1) for _ in range(10)]
    for segment in state.segments:
        assert segment.multiplier == pytest.approx(10**-1.25)
