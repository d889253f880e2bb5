from __future__ import annotations

import math

import numpy as np
import pytest

from ray_autolrs.algorithm.forecast.bounded_exponential import BoundedExponential
from ray_autolrs.algorithm.forecast.forecaster import MIN_SERIES_POINTS

BOUNDED = BoundedExponential()


def exponential(points, scale, decay, offset):
    """A clean series: ``decay`` is how many times it falls by e over its length."""
    return scale * np.exp(-decay * np.arange(points) / points) + offset


def noise(points, size, seed=0):
    return size * np.random.default_rng(seed).normal(size=points)


@pytest.mark.parametrize("points", [50, 100, 400])
@pytest.mark.parametrize("decay", [1.0, 3.0, 10.0])
@pytest.mark.parametrize(("scale", "offset"), [(0.3, 2.0), (2.0, 0.5)])
def test_clean_exponential_is_recovered(points, decay, scale, offset):
    """At ten times the length, rates down to .4 of the series' own are allowed."""
    forecast = BOUNDED.forecast(exponential(points, scale, decay, offset), 10 * points)
    truth = scale * math.exp(-decay * 10) + offset
    assert forecast.loss == pytest.approx(truth, abs=1e-5 * scale)
    assert forecast.trusted


@pytest.mark.parametrize(
    ("first", "last"), [(3.0, 2.9), (3.0, 2.5), (2.5, 3.0)], ids=["slow", "fast", "rising"]
)
def test_straight_line_is_not_extrapolated(first, last):
    """A line would go on by ten times its change; the bound lets about three times through."""
    losses = np.linspace(first, last, 100) + noise(100, 0.01)
    forecast = BOUNDED.forecast(losses, 1000)
    change = (forecast.loss - first) / (last - first)
    assert 1.0 < change < 3.5


def test_nearly_straight_exponential_stays_within_its_own_fall():
    """A fall slower than the bound is cut short: −decay·10 is 1, and the bound says 4."""
    losses = exponential(100, 2.0, 0.1, 1.0)
    forecast = BOUNDED.forecast(losses, 1000)
    assert 2.0 * math.exp(-1.0) + 1.0 < forecast.loss < losses[-1]


@pytest.mark.parametrize("points", [100, 400])
@pytest.mark.parametrize("size", [0.003, 0.01, 0.1])
@pytest.mark.parametrize("decay", [1.0, 3.0, 10.0])
def test_standard_deviation_covers_the_error_however_quiet_the_series(points, size, decay):
    """A grid of rates that is too coarse for little noise once told a 60th of the error."""
    truth = math.exp(-decay * 10) + 2.0
    errors = []
    for seed in range(15):
        losses = exponential(points, 1.0, decay, 2.0) + noise(points, size, seed)
        forecast = BOUNDED.forecast(losses, 10 * points)
        errors.append((forecast.loss - truth) / forecast.std)
    assert 0.4 < math.sqrt(np.mean(np.square(errors))) < 1.7


def test_horizon_within_the_series_is_allowed():
    forecast = BOUNDED.forecast(exponential(100, 2.0, 4.5, 1.0), 50)
    assert forecast.loss == pytest.approx(2.0 * math.exp(-4.5 / 2) + 1.0, abs=0.05)


def test_a_fall_is_trusted_and_a_level_series_stays():
    falling = np.linspace(3.0, 2.0, 200) + noise(200, 0.01)
    level = 2.0 + noise(200, 0.01)
    assert BOUNDED.forecast(falling, 2000).trusted
    assert BOUNDED.forecast(level, 2000).loss == pytest.approx(2.0, abs=0.02)


def test_constant_series_stays_and_is_trusted():
    forecast = BOUNDED.forecast([2.0] * 50, 500)
    assert forecast.loss == pytest.approx(2.0, abs=1e-9)
    assert forecast.std == pytest.approx(0.0, abs=1e-9)
    assert forecast.trusted


def test_noise_that_hides_the_change_is_not_trusted():
    assert not BOUNDED.forecast(noise(12, 1.0, seed=3), 1200).trusted


def test_standard_deviation_shrinks_with_length():
    series = [exponential(points, 1.0, 5.0, 2.0) for points in (50, 200, 800)]
    stds = [
        np.median(
            [
                BOUNDED.forecast(clean + noise(len(clean), 0.1, seed), 10 * len(clean)).std
                for seed in range(10)
            ]
        )
        for clean in series
    ]
    assert stds[0] > 1.5 * stds[1] > 1.5**2 * stds[2] > 0


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([1.0] * (MIN_SERIES_POINTS - 1), "has 7 points; a forecast needs at least 8"),
        ([], "has 0 points"),
        ([1.0] * 9 + [math.nan], "is not finite"),
        ([1.0] * 9 + [math.inf], "is not finite"),
    ],
)
def test_series_without_a_forecast_are_refused(losses, message):
    with pytest.raises(ValueError, match=message):
        BOUNDED.forecast(losses, 100)
