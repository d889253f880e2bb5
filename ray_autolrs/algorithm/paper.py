"""The paper's method, as the three decisions that the stage machine asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ray_autolrs.algorithm.forecast import ExponentialForecaster, Forecast
from ray_autolrs.algorithm.machine import Observation, Rules
from ray_autolrs.algorithm.search import GPSearch
from ray_autolrs.algorithm.stages import Stage, validation_interval
from ray_autolrs.config import AutoLRSConfig


def paper_rules(config: AutoLRSConfig, parallel_probes: int = 1) -> Rules:
    """Return the paper's rules: a Gaussian process for the search, an exponential to forecast.

    Each function builds its search anew from what it is given, so it is pure, and a run that
    was interrupted asks the same LRs.
    """

    def suggest(stage: Stage, told: Sequence[Observation], running: Sequence[float]) -> float:
        search = _search(config, stage, told)
        search.running(running)
        return search.ask()[0]

    def choose(stage: Stage, told: Sequence[Observation]) -> float:
        return _search(config, stage, told).best()

    def judge(stage: Stage, losses: Sequence[float], initial_loss: float) -> Forecast:
        return judge_probe(config, stage, losses, initial_loss)

    return Rules(config, suggest, choose, judge, parallel_probes)


def judge_probe(
    config: AutoLRSConfig, stage: Stage, losses: Sequence[float], initial_loss: float
) -> Forecast:
    """Forecast the loss at the end of a stage from the losses of a probe.

    Args:
        config: the run's settings.
        stage: the stage that the probe was run for.
        losses: one for each step, or the validation losses.
        initial_loss: training loss before the run's first update; NaN if unknown.

    Raises:
        ValueError: there are too few losses, or one is not finite.
    """
    if stage.objective == "training":
        forecaster = ExponentialForecaster(
            config.denoise_rounds, config.denoise_fraction, config.denoise_window
        )
        return forecaster.forecast(losses, horizon=stage.steps)
    if max(losses) >= initial_loss:
        # A series that jumped is no decaying exponential: its last loss stands (published code).
        # The standard deviation is ours: how far the series moved.
        return Forecast(loss=losses[-1], std=float(np.std(losses)))
    forecaster = ExponentialForecaster(
        config.validation_denoise_rounds, None, config.denoise_window
    )
    interval = validation_interval(config, stage.probe_steps)
    return forecaster.forecast(losses, horizon=stage.steps // interval)


def _search(config: AutoLRSConfig, stage: Stage, told: Sequence[Observation]) -> GPSearch:
    search = GPSearch(
        config.lr_min,
        config.lr_max,
        seed=(config.seed, stage.number),
        kappa=config.kappa,
        grid_points=config.lr_grid_points,
        choose_by=config.choose_by,
    )
    for result in told:
        if result.forecast is None:
            search.tell(result.lr, None)
        else:
            search.tell(result.lr, result.forecast.loss, result.forecast.std**2)
    return search
