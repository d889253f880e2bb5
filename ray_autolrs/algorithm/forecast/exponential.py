"""The loss at a stage's end, forecast from the losses of a probe (the paper, section 1).

Symbols
    t    place in the loss series, from 0
    n    length of the series
    y_t  loss at t
    h    horizon: the place to forecast
    a, b, c   of the model y_t = a·exp(b·t) + c, with b < 0
    σ    standard deviation of the series around the model

For a given b the least-squares a and c have a closed form, so the fit is a search over log(−b)
alone. Before it, a quadratic smoothing spline takes out outliers and noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ray_autolrs.algorithm.field_checks import check, check_integer, is_number
from ray_autolrs.algorithm.forecast.forecaster import (
    MIN_SERIES_POINTS,
    Array,
    Forecast,
    checked_series,
    course_places,
)

if TYPE_CHECKING:
    from scipy.interpolate import UnivariateSpline

RATE_GRID_POINTS = 200
"""Values of log(−b) tried before the best is refined. Ours: the published code descends from
b = −1 and takes the first minimum that it meets."""

SLOWEST_DECAY = 1e-6
"""Smallest −b·n: the model is a straight line to six digits. Ours, to keep the search finite."""

STRAIGHT_LINE = 0.01
"""Below this −b·n the model bends by less than 0.5% over the series. Ours."""

FASTEST_DECAY = 30.0
"""Largest −b: the model is flat after the first point. Ours, likewise."""


@dataclass(frozen=True, slots=True)
class Exponential:
    """The paper's forecaster: denoise with a spline, then fit a decaying exponential.

    Attributes:
        denoise_rounds: rounds of spline fit and outlier removal.
        denoise_fraction: fraction of the series looked at as outliers in a round; None looks at
            the single worst point.
        denoise_window: only outliers in this first fraction of the series are dropped.

    The numbers are the published code's, for training losses.

    Raises:
        ValueError: a field is out of its range.

    Example:
        >>> import math
        >>> losses = [2.0 * math.exp(-0.001 * t) + 1.0 for t in range(100)]
        >>> round(Exponential().forecast(losses, horizon=1000).loss, 1)
        1.7
    """

    denoise_rounds: int = 10
    denoise_fraction: float | None = 0.03
    denoise_window: float = 0.5

    def __post_init__(self) -> None:
        check_integer(self, "denoise_rounds", minimum=0)
        fraction, window = self.denoise_fraction, self.denoise_window
        holds = fraction is None or (is_number(fraction) and 0 <= fraction < 0.5)
        check(self, "denoise_fraction", holds, "must be None or lie in [0, 0.5)")
        holds = is_number(window) and 0 <= window <= 1
        check(self, "denoise_window", holds, "must lie in [0, 1]")

    def forecast(self, losses: Sequence[float], horizon: int) -> Forecast:
        """See :meth:`Forecaster.forecast`."""
        series = checked_series(losses)
        smooth = self._denoise(series)
        rate = _fit_rate(smooth)
        scale, offset = _scale_and_offset(smooth, rate)
        loss = scale * np.expm1(rate * horizon) + offset
        std = _standard_deviation(series, rate, scale, offset, horizon)
        # Ours: a fit that is a straight line extrapolates by the horizon's ten times, and an
        # error beyond the range of what was seen says nothing.
        is_line = -rate * len(series) < STRAIGHT_LINE
        trusted = not is_line and std <= float(np.ptp(series))
        places = course_places(len(series), horizon)
        course = scale * np.expm1(rate * places) + offset
        return Forecast(float(loss), std, trusted, tuple(course.tolist()))

    def _denoise(self, series: Array) -> Array:
        """Return the spline through what is left when outliers are dropped (published code).

        Only the start of a series is cleaned, where the loss still settles on the new LR.
        """
        places = np.arange(len(series), dtype=np.float64)
        kept_places, kept = places, series
        bound = int((len(series) - 1) * self.denoise_window)
        for _ in range(self.denoise_rounds):
            residuals = np.abs(kept - _spline(kept_places, kept)(kept_places))
            suspects = np.argsort(residuals, kind="stable")[len(kept) - self._suspects(len(kept)) :]
            outliers = suspects[suspects < bound]
            if len(kept) - len(outliers) < MIN_SERIES_POINTS // 2:
                break
            kept_places, kept = np.delete(kept_places, outliers), np.delete(kept, outliers)
        smooth: Array = _spline(kept_places, kept)(places)
        return smooth

    def _suspects(self, points: int) -> int:
        """Return how many points a round looks at.

        A departure: with 16 points or fewer the published code's 3% round to none, and its slice
        then holds the whole series. Ours drops nothing then.
        """
        if self.denoise_fraction is None:
            return 1
        return round(points * self.denoise_fraction)


def _spline(places: Array, losses: Array) -> UnivariateSpline:
    """Return the quadratic spline with SciPy's default smoothing (published code)."""
    from scipy.interpolate import UnivariateSpline  # loading it takes half as long as torch

    with warnings.catch_warnings():
        # Through a series that spans many magnitudes there may be no spline of just this
        # smoothness; SciPy says so and gives the nearest.
        warnings.filterwarnings("ignore", "(?s).*smoothing spline", UserWarning)
        return UnivariateSpline(places, losses, k=2)


def _fit_rate(series: Array) -> float:
    """Return the b < 0 of least squared error: the best of a grid of log(−b), refined."""
    from scipy.optimize import minimize_scalar

    length = len(series)
    log_rates = np.linspace(np.log(SLOWEST_DECAY / length), np.log(FASTEST_DECAY), RATE_GRID_POINTS)
    errors = [_squared_error(log_rate, series) for log_rate in log_rates]
    best = int(np.argmin(errors))
    bracket = (log_rates[max(0, best - 1)], log_rates[min(best + 1, RATE_GRID_POINTS - 1)])
    refined = minimize_scalar(
        _squared_error, bounds=bracket, args=(series,), method="bounded", options={"xatol": 1e-8}
    )
    log_rate = refined.x if refined.fun <= errors[best] else log_rates[best]
    return -float(np.exp(log_rate))


def _squared_error(log_rate: float, series: Array) -> float:
    rate = -np.exp(log_rate)
    scale, offset = _scale_and_offset(series, rate)
    residuals = series - scale * np.expm1(rate * np.arange(len(series))) - offset
    return float(residuals @ residuals)


def _scale_and_offset(series: Array, rate: float) -> tuple[float, float]:
    """Return the least-squares a, and a + c, for a given b.

    exp(b·t) − 1 stands in for exp(b·t): the same model, without cancellation where b is small.
    """
    basis = np.expm1(rate * np.arange(len(series)))
    centred = basis - basis.mean()
    scale = float(centred @ series / (centred @ centred))
    return scale, float(series.mean() - scale * basis.mean())


def _standard_deviation(
    series: Array, rate: float, scale: float, offset: float, horizon: int
) -> float:
    """Return the forecast's standard deviation by the delta method.

    With J the model's Jacobian over the series and g its gradient at the horizon, both in
    (a, a + c, b), the variance is σ²·gᵀ(JᵀJ)⁻¹g; the pseudo-inverse leaves out directions that
    the series says nothing about. Ours: the published code gives no error.
    """
    places = np.arange(len(series), dtype=np.float64)
    residuals = series - scale * np.expm1(rate * places) - offset
    sigma = np.sqrt(residuals @ residuals / (len(series) - 3))
    # Times are scaled to the series' length, so that the columns are of comparable size.
    jacobian = _gradient(places, rate, scale, len(series))
    gradient = _gradient(np.array([float(horizon)]), rate, scale, len(series))[0]
    weights = np.linalg.lstsq(jacobian.T, gradient, rcond=None)[0]
    return float(sigma * np.linalg.norm(weights))


def _gradient(places: Array, rate: float, scale: float, length: int) -> Array:
    decay = np.exp(rate * places)
    return np.stack(
        [np.expm1(rate * places), np.ones_like(places), scale * places / length * decay], axis=1
    )
