"""What a probe promises: the interface of forecasters, and the series that they read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

MIN_SERIES_POINTS = 8
"""Fewest losses that a forecast is made from. Ours: the spline and the exponential have three
free parameters each, and the published code's outlier filter fails on short series."""

COURSE_POINTS = 9
"""Points of a forecast's course. Ours: enough to draw an exponential."""

LARGEST_LOSS = 1e40
"""Losses count as no larger than this, beyond float32: larger ones overflow in a fit. Ours."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A forecast loss and its standard deviation, in the loss's own unit.

    Attributes:
        loss: the forecast.
        std: its standard deviation; NaN where nothing is known about it.
        trusted: whether the forecaster trusts itself.
        course: forecast losses at ``COURSE_POINTS`` even places from the series' end to the
            horizon, for a reader of the log; empty where they are not told.
    """

    loss: float
    std: float
    trusted: bool = True
    course: tuple[float, ...] = ()


class Forecaster(Protocol):
    """Tells where a loss series is going."""

    @abstractmethod
    def forecast(self, losses: Sequence[float], horizon: int) -> Forecast:
        """Return the loss at place ``horizon`` of the series that begins with ``losses``.

        Args:
            losses: finite losses, evenly spaced, at least ``MIN_SERIES_POINTS`` of them.
            horizon: place to forecast, counted from 0 at the first loss.

        Raises:
            ValueError: the series is too short or not finite.
        """


def course_places(points: int, horizon: int) -> Array:
    """Return the places of a forecast's course, shape (``COURSE_POINTS``,).

    Args:
        points: length of the series.
        horizon: place of the forecast.
    """
    return np.linspace(float(points - 1), float(horizon), COURSE_POINTS)


def checked_series(losses: Sequence[float]) -> Array:
    """Return a series as an array, its values within ``LARGEST_LOSS``.

    Raises:
        ValueError: it is too short for a forecast, or not finite.
    """
    series = np.asarray(losses, dtype=np.float64)
    if len(series) < MIN_SERIES_POINTS:
        raise ValueError(
            f"the loss series has {len(series)} points; a forecast needs at least "
            f"{MIN_SERIES_POINTS}: lengthen the probe"
        )
    if not np.isfinite(series).all():
        raise ValueError("the loss series is not finite: a diverged probe has no forecast")
    return np.clip(series, -LARGEST_LOSS, LARGEST_LOSS)
