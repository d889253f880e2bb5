"""Probes of strategies that search each stage alike: what they are, and what they promise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ray_autolrs.algorithm.forecast.bounded_exponential import FORECASTERS
from ray_autolrs.algorithm.forecast.exponential import ExponentialForecaster, Forecast, Forecaster
from ray_autolrs.algorithm.schedules.run_shape import run_shape
from ray_autolrs.algorithm.schedules.stage_plan import validation_interval
from ray_autolrs.algorithm.search.strategy import Candidate, StageContext
from ray_autolrs.config import AutoLRSConfig


def stage_candidate(config: AutoLRSConfig, context: StageContext, lr: float) -> Candidate:
    """Return a probe of a stage that is as long as the others and begins as the stage will."""
    stage = context.stage
    evals = min(config.validation_evals, stage.probe_steps)
    return Candidate(
        lr=lr,
        steps=stage.probe_steps,
        evals=evals if stage.objective == "validation" else 0,
        shape=run_shape(config),
    )


def judge_stage_probe(
    config: AutoLRSConfig, context: StageContext, losses: Sequence[float]
) -> Forecast:
    """Forecast the loss at the end of a stage from the losses of a probe.

    Args:
        config: the run's settings.
        context: the stage that the probe was run for.
        losses: one for each step, or the validation losses, as the stage's objective says.

    Raises:
        ValueError: there are too few losses, or one is not finite.
    """
    stage = context.stage
    if stage.objective == "training":
        return training_forecaster(config).forecast(losses, horizon=stage.steps)
    if max(losses) >= context.initial_loss:
        # A series that jumped is no decaying exponential: its last loss stands (published code).
        # The standard deviation is ours: how far the series moved.
        return Forecast(loss=losses[-1], std=float(np.std(losses)), trusted=False)
    forecaster: Forecaster = ExponentialForecaster(
        config.validation_denoise_rounds, None, config.denoise_window
    )
    if config.forecaster not in (None, "exponential"):
        forecaster = FORECASTERS[config.forecaster]()
    evals = min(config.validation_evals, stage.probe_steps)
    interval = validation_interval(evals, stage.probe_steps)
    return forecaster.forecast(losses, horizon=stage.steps // interval)


def training_forecaster(config: AutoLRSConfig) -> Forecaster:
    """Return what forecasts a series of training losses; the paper's where none is named."""
    if config.forecaster in (None, "exponential"):
        return ExponentialForecaster(
            config.denoise_rounds, config.denoise_fraction, config.denoise_window
        )
    return FORECASTERS[config.forecaster]()
