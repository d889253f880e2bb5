from __future__ import annotations

import math

import numpy as np
import pytest

from ray_autolrs.algorithm.forecast.exponential import ExponentialForecaster
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search.gaussian_process import GaussianProcessStrategy
from ray_autolrs.algorithm.search.stage_probes import judge_stage_probe
from ray_autolrs.algorithm.search.strategy import Observation, StageContext
from ray_autolrs.config import AutoLRSConfig

CONFIG = AutoLRSConfig.paper(total_steps=1000, lr_min=1e-3, lr_max=1.0)
TRAINING = Stage(1, 0, 1000, 100, "training")
VALIDATION = Stage(5, 15_000, 8000, 800, "validation")


def judge_probe(config, stage, losses, initial_loss):
    return judge_stage_probe(config, StageContext(stage, (), initial_loss), losses)


def falling(points):
    return tuple(2.0 + math.exp(-2 * t / points) for t in range(points))


def test_training_losses_are_forecast_to_the_stage_end():
    expected = ExponentialForecaster(10, 0.03, 0.5).forecast(falling(100), 1000)
    assert judge_probe(CONFIG, TRAINING, falling(100), math.nan) == expected


def test_validation_losses_are_forecast_in_units_of_their_interval():
    expected = ExponentialForecaster(1, None, 0.5).forecast(falling(16), 8000 // 50)
    assert judge_probe(CONFIG, VALIDATION, falling(16), 9.0) == expected


@pytest.mark.parametrize("initial_loss", [3.0, 2.5])
def test_validation_series_that_reaches_the_initial_loss_gives_its_last_loss(initial_loss):
    losses = falling(16)
    assert judge_probe(CONFIG, VALIDATION, losses, initial_loss).loss == losses[-1]


def test_training_series_that_reaches_the_initial_loss_is_forecast():
    assert judge_probe(CONFIG, TRAINING, falling(100), 1.0).loss != falling(100)[-1]


FIRST, LATER = StageContext(TRAINING), StageContext(VALIDATION)
STRATEGY = GaussianProcessStrategy(CONFIG)


def suggested(context, told=(), running=()):
    candidate = STRATEGY.suggest(context, told, running)
    assert candidate is not None
    return candidate


def test_suggestions_are_pure_and_differ_between_stages():
    told: list[Observation] = []
    for index in range(4):
        candidate = suggested(FIRST, told)
        assert suggested(FIRST, told) == candidate
        forecast = None if index == 1 else STRATEGY.judge(FIRST, candidate, falling(100))
        told.append(Observation(index, candidate.lr, forecast))
    assert len({result.lr for result in told}) == 4
    assert suggested(LATER).lr != suggested(FIRST).lr
    assert STRATEGY.choose(FIRST, told) in {told[0].lr, told[2].lr, told[3].lr}


def test_probes_of_growing_stages_are_judged_by_training_loss_and_others_by_validation():
    assert (suggested(FIRST).steps, suggested(FIRST).evals) == (100, 0)
    assert (suggested(LATER).steps, suggested(LATER).evals) == (800, 16)


def test_search_ends_after_ten_probes_and_fails_if_all_diverge():
    told = [Observation(index, 0.1 + index, None) for index in range(10)]
    assert STRATEGY.suggest(FIRST, told, ()) is None
    assert STRATEGY.choose(FIRST, told) is None


def test_running_lrs_are_not_suggested_again():
    running = [suggested(FIRST).lr]
    while len(running) < 10:
        running.append(suggested(FIRST, (), running).lr)
    places = sorted((math.log10(lr) + 3) / 3 for lr in running)
    assert max(np.diff([0.0, *places, 1.0])) < 0.2
