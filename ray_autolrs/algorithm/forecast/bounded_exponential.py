"""An exponential that cannot become a straight line, for series that the paper's reads badly.

Symbols
    t    place in the loss series, from 0; n points
    y_t  loss at t
    h    horizon: the place to forecast
    r    rate of decay, r > 0: y_t = a·exp(-r·t) + c
    σ²   variance of the series around a curve
    w_r  weight of a rate: its likelihood, with the variance estimated, (Σ residual²)^(-n/2)

On a tenth of the horizon a·exp(-r·t) + c is often a straight line to the eye. The
least-squares r is then close to 0, and the forecast a linear extrapolation by ten times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_autolrs.algorithm.forecast.exponential import FASTEST_DECAY
from ray_autolrs.algorithm.forecast.forecaster import Array, Forecast, checked_series

SLOWEST_RATE = 4.0
"""Smallest r·h: by the horizon all but e⁻⁴ of the fall is done. Ours (measured: it takes the
regret of the exponential from .132 to .020)."""

RATE_POINTS = 60
"""Rates that the prediction is averaged over, evenly spaced in log r. Ours."""

LIKELY = 20.0
"""Rates less likely than the best by this in the log are left out when the grid zooms in: together
they weigh about e⁻²⁰. Ours."""

ZOOMS = 4
"""Most times that the grid zooms in. Ours: each narrows it up to thirty times."""


@dataclass(frozen=True, slots=True)
class BoundedExponential:
    """An exponential whose rate is bounded below, averaged over its rates by likelihood.

    For each rate a and c have a closed form. The variance is that of the mixture: the mean over
    the rates of each one's own, and the spread of their predictions.

    Example:
        >>> losses = [2.0 * math.exp(-0.004 * t) + 1.0 for t in range(100)]
        >>> round(BoundedExponential().forecast(losses, horizon=1000).loss, 2)
        1.04
    """

    def forecast(self, losses: Sequence[float], horizon: int) -> Forecast:
        """See :meth:`Forecaster.forecast`. Not trusted where its error exceeds its change."""
        series = checked_series(losses)
        count = len(series)
        # A horizon within the series asks for no slower rate than the series itself can show.
        slowest = SLOWEST_RATE / max(horizon, count)
        fits, errors, logs = _likely_fits(series, slowest, horizon)
        predictions = np.array([fit.prediction for fit in fits])
        weights = np.exp(logs)
        weights /= weights.sum()
        mean = float(weights @ predictions)
        within = float(weights @ np.array([fit.variance for fit in fits]))
        between = float(weights @ (predictions - mean) ** 2)
        std = math.sqrt(within + between)
        change = abs(mean - float(series[-max(1, count // 10) :].mean()))
        noise = math.sqrt(float(errors.min()) / count)
        return Forecast(loss=mean, std=std, trusted=std <= max(change, 2 * noise))


@dataclass(frozen=True, slots=True)
class _Fit:
    prediction: float
    variance: float
    squared_error: float


def _likely_fits(series: Array, slowest: float, horizon: int) -> tuple[list[_Fit], Array, Array]:
    """Return fits over the likely rates, their squared errors, and their log likelihoods.

    Little noise makes the likelihood far narrower than a step of the first grid. One rate would
    then take all the weight, and the spread between rates, most of the error, be lost. So the grid
    zooms in until what is likely fills half of it. The highest log likelihood is 0.
    """
    # The floor keeps a series without noise from dividing by 0.
    floor = 1e-12 * max(float(np.ptp(series)), 1e-12) ** 2 * len(series)
    rates = np.geomspace(slowest, max(FASTEST_DECAY / 2, 2 * slowest), RATE_POINTS)
    zooms = 0
    while True:
        fits = [_fit(series, rate, horizon) for rate in rates]
        errors = np.array([max(fit.squared_error, floor) for fit in fits])
        logs = -0.5 * len(series) * np.log(errors / errors.min())
        likely = np.flatnonzero(logs > -LIKELY)
        low, high = max(likely[0] - 1, 0), min(likely[-1] + 1, RATE_POINTS - 1)
        if zooms == ZOOMS or high - low > RATE_POINTS // 2:
            return fits, errors, logs
        rates = np.geomspace(rates[low], rates[high], RATE_POINTS)
        zooms += 1


def _fit(series: Array, rate: float, horizon: int) -> _Fit:
    """Return the least-squares prediction for one rate, with its variance."""
    # Less 1, which c takes up: without cancellation where the rate is small.
    basis = np.expm1(-rate * np.arange(len(series)))
    centred = basis - basis.mean()
    spread = float(centred @ centred)
    scale = float(centred @ series) / spread
    residuals = series - series.mean() - scale * centred
    squared_error = float(residuals @ residuals)
    distance = math.expm1(-rate * horizon) - float(basis.mean())
    variance = squared_error / (len(series) - 2) * (1 / len(series) + distance**2 / spread)
    return _Fit(float(series.mean()) + scale * distance, variance, squared_error)
