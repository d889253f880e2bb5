"""Forecasters that stand beside the paper's, for series that it reads badly.

Symbols
    t    place in the loss series, from 0; n points
    y_t  loss at t
    h    horizon: the place to forecast
    r    rate of decay, r > 0: y_t = a·exp(-r·t) + c
    σ²   variance of the series around a curve
    w_r  weight of a rate: its likelihood, with the variance estimated, (Σ residual²)^(-n/2)

Why they exist: on a tenth of the horizon a·exp(-r·t) + c is often a straight line to the eye. The
least-squares r is then close to 0, and the forecast a linear extrapolation by ten times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ray_autolrs.algorithm.forecast.exponential import (
    FASTEST_DECAY,
    Forecast,
    Forecaster,
    checked_series,
)

Array = np.ndarray[Any, np.dtype[np.float64]]

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

TAIL_POINTS = 3
"""Fewest points in a tail: a line through two leaves no noise to judge its slope by. Ours."""

SIGNIFICANT_SLOPE = 3.0
"""A tail whose slope is so many standard errors from 0 is still moving. Ours."""

NORMAL_MEDIAN_FACTOR = math.sqrt(math.pi / 2)
"""Standard error of a median over that of a mean, for normal noise."""


@dataclass(frozen=True, slots=True)
class BoundedExponentialForecaster:
    """An exponential whose rate is bounded below, averaged over its rates by likelihood.

    For each rate a and c have a closed form. The variance is that of the mixture: the mean over
    the rates of each one's own, and the spread of their predictions.

    Example:
        >>> losses = [2.0 * math.exp(-0.004 * t) + 1.0 for t in range(100)]
        >>> round(BoundedExponentialForecaster().forecast(losses, horizon=1000).loss, 2)
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
class TailMeanForecaster:
    """The mean of a series' last part: no forecast, and on short probes better than most.

    Attributes:
        tail: part of the series that counts, in (0, 1]; never fewer than ``TAIL_POINTS`` points.

    Raises:
        ValueError: ``tail`` is outside (0, 1].

    Example:
        >>> TailMeanForecaster(tail=0.5).forecast([4.0] * 4 + [1.0, 2.0, 1.0, 2.0], 80).loss
        1.5
    """

    tail: float = 0.3

    def __post_init__(self) -> None:
        _check_tail(self.tail)

    def forecast(self, losses: Sequence[float], horizon: int) -> Forecast:
        """See :meth:`Forecaster.forecast`. Not trusted while the tail still falls or rises."""
        tail = _tail(losses, self.tail)
        return Forecast(float(tail.mean()), _standard_error(tail), trusted=_is_level(tail))


@dataclass(frozen=True, slots=True)
class TailMedianForecaster:
    """The median of a series' last part, for losses with spikes.

    Attributes:
        tail: part of the series that counts, in (0, 1]; never fewer than ``TAIL_POINTS`` points.

    Raises:
        ValueError: ``tail`` is outside (0, 1].

    Example:
        >>> TailMedianForecaster(tail=0.5).forecast([4.0] * 5 + [1.0, 2.0, 1.0, 90.0, 1.5], 90).loss
        1.5
    """

    tail: float = 0.3

    def __post_init__(self) -> None:
        _check_tail(self.tail)

    def forecast(self, losses: Sequence[float], horizon: int) -> Forecast:
        """See :meth:`Forecaster.forecast`. Not trusted while the tail still falls or rises."""
        tail = _tail(losses, self.tail)
        # From the median deviation, which a spike does not move (0.6745: a normal's quartile).
        deviation = float(np.median(np.abs(tail - np.median(tail)))) / 0.6745
        std = NORMAL_MEDIAN_FACTOR * deviation / math.sqrt(len(tail))
        return Forecast(float(np.median(tail)), std, trusted=_is_level(tail))


FORECASTERS: Mapping[str, Callable[[], Forecaster]] = MappingProxyType(
    {
        "bounded_exponential": BoundedExponentialForecaster,
        "tail_mean": TailMeanForecaster,
        "tail_median": TailMedianForecaster,
    }
)
"""By the name in ``AutoLRSConfig.forecaster``; the paper's is built from the settings."""


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


def _tail(losses: Sequence[float], part: float) -> Array:
    series = checked_series(losses)
    return series[-max(TAIL_POINTS, round(part * len(series))) :]


def _check_tail(part: float) -> None:
    if not 0 < part <= 1:
        raise ValueError(f"tail must be above 0 and at most 1, got {part!r}: it is a part of 1")


def _standard_error(tail: Array) -> float:
    return float(tail.std(ddof=1)) / math.sqrt(len(tail))


def _is_level(tail: Array) -> bool:
    """Return whether a line through the tail has no slope that its noise does not explain."""
    places = np.arange(len(tail), dtype=np.float64)
    places -= places.mean()
    slope = float(places @ tail) / float(places @ places)
    residuals = tail - tail.mean() - slope * places
    variance = float(residuals @ residuals) / max(1, len(tail) - 2)
    error = math.sqrt(variance / float(places @ places))
    return abs(slope) <= SIGNIFICANT_SLOPE * error + 1e-12 * max(1.0, float(abs(tail).max()))
