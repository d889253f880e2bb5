"""Whether a stage went as the one before it let foresee: where it did not, conditions changed.

Symbols
    a, b  training losses of a stage, and of the stage after it
    h     later half of b
    f, σ  forecast of the loss at the middle of h, and its error, from the course of a
          (:mod:`ray_autolrs.algorithm.forecast.bounded_exponential`)
    v     noise of a series over the square of its mean: Σ (x_t - x_(t-1))² / 2n / mean²

A stage was not foreseen if its loss is higher than forecast, (mean h - f) / √(σ² + error²) > 4, or
if v of h and of a differ by a factor of 3. Data that shift raise the loss, a batch that grows and
layers that are unfrozen change the noise. A loss that falls faster than forecast is no sign: the
forecast is bounded, and most do. The numbers are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ray_autolrs.algorithm.forecast.bounded_exponential import BoundedExponential
from ray_autolrs.algorithm.forecast.forecaster import MIN_SERIES_POINTS, Array

MOST_ERRORS = 4.0
NOISE_FACTOR = 3.0

POINTS = 25
"""Means of successive losses that a forecast is made from, at most: its errors are to be nearly
independent, and an exponential needs no more."""


def is_unforeseen(before: Sequence[float], after: Sequence[float]) -> bool:
    """Return whether a stage's losses are not what those of the stage before it let foresee.

    Args:
        before: training loss of each step of a stage; one too short for a forecast tells nothing.
        after: of the stage that follows it.

    >>> falling = [1 + 0.9**step + 0.01 * (-1) ** step for step in range(60)]
    >>> is_unforeseen(falling, [1.0 + 0.01 * (-1) ** step for step in range(60)])
    False
    >>> is_unforeseen(falling, [1.3 + 0.01 * (-1) ** step for step in range(60)])
    True
    """
    width = -(-len(before) // POINTS)
    if len(before) < MIN_SERIES_POINTS * width or len(after) < 2 * MIN_SERIES_POINTS:
        return False
    a, b = np.asarray(before), np.asarray(after)
    half = b[len(b) // 2 :]
    noise = _relative_noise(half), _relative_noise(a)
    if max(noise) > NOISE_FACTOR * min(noise):
        return True
    points = a[len(a) % width :].reshape(-1, width).mean(axis=1)
    horizon = len(points) + round((len(b) - len(half) / 2) / width)
    forecast = BoundedExponential().forecast(points.tolist(), horizon)
    error = math.sqrt(_noise(half) / len(half))
    return float(half.mean()) - forecast.loss > MOST_ERRORS * math.hypot(forecast.std, error)


def _noise(series: Array) -> float:
    return float(np.mean(np.diff(series) ** 2)) / 2


def _relative_noise(series: Array) -> float:
    return _noise(series) / max(float(series.mean()) ** 2, 1e-30)
