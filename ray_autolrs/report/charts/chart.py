"""A chart as plain values: what the template draws, in percent of its two axes.

Lines and areas are paths in a square of ``UNITS``, which the page stretches; marks, bars and texts
keep their size whatever the page's width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ray_autolrs.algorithm.forecast.forecaster import Array
from ray_autolrs.report.charts.axes import Axis

UNITS = 1000

Edges = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Curve:
    """A line or an area.

    Attributes:
        path: SVG path data.
        kind: CSS class.
        title: shown where the pointer is on it.
    """

    path: str
    kind: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point: ``shape`` is one of ``dot``, ``ring``, ``cross``, ``diamond`` and ``square``.

    Attributes:
        x: percent from the left.
        y: percent from the top.
        shape: as said.
        kind: CSS class.
        title: shown where the pointer is on it.
    """

    x: float
    y: float
    shape: str
    kind: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle, in percent from the left and the top, with a CSS class and a title."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A short text in a chart, in percent from the left and the top."""

    x: float
    y: float
    text: str
    kind: str = "note"


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a legend: a CSS class, what it stands for, and a ``line``, ``bar`` or mark."""

    kind: str
    text: str
    shape: str = "line"


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        label: what it shows, in a sentence, for who does not see it.
        x: horizontal axis; None draws none.
        y: vertical axis, likewise.
        height: in pixels.
        bars: drawn first.
        curves: drawn over them.
        marks: drawn over these.
        texts: drawn last.
        keys: the legend.
        is_shaded: the legend begins with the shades of promises.
    """

    label: str
    x: Axis | None
    y: Axis | None
    height: int = 280
    bars: Sequence[Bar] = field(default=())
    curves: Sequence[Curve] = field(default=())
    marks: Sequence[Mark] = field(default=())
    texts: Sequence[Text] = field(default=())
    keys: Sequence[Key] = field(default=())
    is_shaded: bool = False


def line(x: Axis, y: Axis, xs: Iterable[float], ys: Iterable[float]) -> str:
    """Return the path through points; it has a gap where a value is not finite."""
    return _path(*_places(x, y, xs, ys))


def area(
    x: Axis, y: Axis, xs: Iterable[float], lows: Iterable[float], highs: Iterable[float]
) -> str:
    """Return the closed path between two lines over the same places; NaN are left out."""
    places, below = _places(x, y, xs, lows)
    _, above = _places(x, y, xs, highs)
    known = ~(np.isnan(below) | np.isnan(above))
    if known.sum() < 2:
        return ""
    across = np.concatenate([places[known], places[known][::-1]])
    around = _path(across, np.concatenate([below[known], above[known][::-1]]))
    return f"{around}Z"


def mark(x: Axis, y: Axis, at: tuple[float, float], shape: str, kind: str, title: str) -> Mark:
    """Return a mark at a point; one outside of the axes lies on their edge."""
    across, up = (float(axis.at([value])[0]) for axis, value in zip((x, y), at, strict=True))
    is_inside = all(-0.001 <= place <= 1.001 for place in (across, up))
    outside = "" if is_inside else " outside"
    across, up = (round(100 * min(max(place, 0.0), 1.0), 2) for place in (across, up))
    return Mark(across, round(100 - up, 2), shape, kind + outside, title)


def thinned(values: Array, most: int) -> tuple[Array, Array, Array, Array]:
    """Return a series in at most so many even parts.

    Returns:
        The middle of each part as a place in the series, and its mean, least and largest value;
        NaN where it has no finite value.
    """
    count = min(len(values), most)
    edges = np.linspace(0, len(values), count + 1).round().astype(int)
    return ((edges[:-1] + edges[1:] - 1) / 2, *in_parts(values, edges))


def in_parts(values: Array, edges: Edges) -> tuple[Array, Array, Array]:
    """Return mean, least and largest value of each part of a series; NaN where none is finite.

    Args:
        values: the series.
        edges: the first place of each part, increasing, and the end of the last one.
    """
    if len(edges) < 2:
        return (np.zeros(0),) * 3
    values, begins = values[: edges[-1]], edges[:-1]
    known = np.isfinite(values)
    sums = np.add.reduceat(np.where(known, values, 0.0), begins)
    counts = np.add.reduceat(known.astype(float), begins)
    low = np.minimum.reduceat(np.where(known, values, np.inf), begins)
    high = np.maximum.reduceat(np.where(known, values, -np.inf), begins)
    with np.errstate(invalid="ignore"):
        mean = sums / np.where(counts > 0, counts, np.nan)
    return mean, _or_nan(low), _or_nan(high)


def _or_nan(values: Array) -> Array:
    return np.where(np.isfinite(values), values, np.nan)


def _places(x: Axis, y: Axis, xs: Iterable[float], ys: Iterable[float]) -> tuple[Array, Array]:
    across, up = UNITS * x.at(xs), UNITS * (1 - y.at(ys))
    # Far outside is outside: short numbers, and no overflow in a browser.
    return np.clip(across, -UNITS, 2 * UNITS), np.clip(up, -UNITS, 2 * UNITS)


def _path(across: Array, down: Array) -> str:
    parts, command = [], "M"
    for a, d in zip(across.round(1).tolist(), down.round(1).tolist(), strict=True):
        if a != a or d != d:
            command = "M"
            continue
        parts.append(f"{command}{a:g} {d:g}")
        command = "L"
    return "".join(parts)
