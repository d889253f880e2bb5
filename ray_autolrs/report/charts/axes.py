"""Axes: where a value lies between two ends, and which values are written beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ray_autolrs.algorithm.forecast.forecaster import Array

MOST_TICKS = 6
"""Ours: their labels fit beside each other on a page of 400 pixels."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A value on an axis.

    Attributes:
        place: percent of the axis, from its low end.
        label: the value as text; empty for a line without one.
    """

    place: float
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis from ``low`` to ``high``, in log where ``is_log``; both ends are then positive."""

    title: str
    low: float
    high: float
    is_log: bool = False
    ticks: tuple[Tick, ...] = field(default=())

    @classmethod
    def over(
        cls,
        title: str,
        values: Iterable[float],
        *,
        is_log: bool = False,
        margin: float = 0.05,
    ) -> Axis:
        """Return the axis that holds all finite values, with a margin, and its ticks.

        Values that are not positive are left out of a log axis.
        """
        known = np.array([*values], dtype=np.float64)
        known = known[np.isfinite(known) & ((known > 0) | (not is_log))]
        if len(known) == 0:
            known = np.array([0.1, 1.0] if is_log else [0.0, 1.0])
        ends = np.log10([known.min(), known.max()]) if is_log else [known.min(), known.max()]
        low, high = float(ends[0]), float(ends[1])
        if high - low < 1e-9 * max(1.0, abs(low)):
            spread = 0.5 if is_log else max(abs(low) * 0.1, 0.5)
            low, high = low - spread, high + spread
        space = margin * (high - low)
        low, high = low - space, high + space
        if is_log:
            low, high = 10**low, 10**high
        bare = cls(title, low, high, is_log)
        labelled = _log_ticks(low, high) if is_log else _linear_ticks(low, high)
        ticks = tuple(Tick(float(100 * bare.at([value])[0]), label) for value, label in labelled)
        return cls(title, low, high, is_log, ticks)

    def at(self, values: Iterable[float]) -> Array:
        """Return where values lie: 0 at the low end, 1 at the high one; NaN where nowhere."""
        known = np.array([*values] if not isinstance(values, np.ndarray) else values, dtype=float)
        if not self.is_log:
            return np.asarray((known - self.low) / (self.high - self.low))
        # What is not positive lies below all else: its line leaves the chart downwards.
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(known > 0, np.log(known), np.where(np.isnan(known), np.nan, -1e3))
        low, high = math.log(self.low), math.log(self.high)
        return np.asarray((logs - low) / (high - low))


def spans_decades(values: Iterable[float], factor: float = 20.0) -> bool:
    """Return whether values are all positive, and the largest is ``factor`` times the smallest."""
    known = [value for value in values if math.isfinite(value)]
    return bool(known) and min(known) > 0 and max(known) > factor * min(known)


def without_far(values: Iterable[float], near: Iterable[float], reach: float = 1.0) -> list[float]:
    """Return the values that lie within ``reach`` times the span of ``near`` from it.

    An axis then shows what is near, and what is far lies on its edge.
    """
    known = [value for value in near if math.isfinite(value)]
    if not known:
        return [*values]
    low, high = min(known), max(known)
    space = reach * max(high - low, 0.1 * abs(high), 1e-12)
    return [value for value in values if low - space <= value <= high + space]


def number(value: float | None, digits: int = 4) -> str:
    """Return a number as text.

    >>> number(12345), number(0.000123456), number(None), number(1.5), number(2e-5, 3)
    ('12,345', '0.0001235', '–', '1.5', '2e-5')
    """
    if value is None or math.isnan(value):
        return "–"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def compact(value: float) -> str:
    """Return a tick's number as a short text.

    >>> compact(0.0), compact(1500), compact(20_000), compact(2.5e6), compact(0.25), compact(1e-5)
    ('0', '1500', '20k', '2.5M', '0.25', '1e-5')
    """
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            scale = 1e3 if suffix == "k" else unit
            return f"{value / scale:g}{suffix}"
    return number(value).replace(",", "") if value else "0"


def _linear_ticks(low: float, high: float) -> list[tuple[float, str]]:
    rough = (high - low) / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * part for part in (1, 2, 5, 10) if power * part >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    values = [
        round(place * step, 12 - math.floor(math.log10(step))) for place in range(first, last + 1)
    ]
    return [(value, compact(value)) for value in values]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = last - first
    parts = (1,) if decades > 2 else (1, 2, 5)
    every = max(1, math.ceil(decades / MOST_TICKS))
    values = [
        part * 10.0**power
        for power in range(first, last + 1)
        for part in parts
        if power % every == 0
    ]
    return [
        (value, compact(value)) for value in values if low * 0.999999 <= value <= high * 1.000001
    ]
