from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize
from scipy.interpolate import UnivariateSpline

from ray_autolrs.algorithm.forecast.exponential import Exponential
from ray_autolrs.algorithm.forecast.forecaster import MIN_SERIES_POINTS

TRAINING = Exponential()
VALIDATION = Exponential(denoise_rounds=1, denoise_fraction=None)


def published_forecast(losses, horizon, *, training):
    """The procedure of the published code, step by step, for comparison only.

    It descends from b = −1 with Nelder-Mead, and solves for a and c with ``lstsq``.
    """
    places = np.arange(len(losses), dtype=float)
    bound = places[int((len(losses) - 1) * 0.5)]
    kept_places, kept = places, np.asarray(losses)
    for _ in range(10 if training else 1):
        residuals = np.abs(kept - UnivariateSpline(kept_places, kept, k=2)(kept_places))
        order = sorted(range(len(kept)), key=lambda place: residuals[place])
        looked_at = order[round(-len(kept) * 0.03) :] if training else order[-1:]
        outliers = [place for place in looked_at if place < bound]
        kept_places, kept = np.delete(kept_places, outliers), np.delete(kept, outliers)
    smooth = UnivariateSpline(kept_places, kept, k=2)(places)

    def design(log_rate):
        return np.stack([np.exp(-np.exp(log_rate) * places), np.ones(len(places))], axis=1)

    def error(log_rate):
        return np.linalg.lstsq(design(log_rate[0]), smooth, rcond=None)[1][0]

    log_rate = optimize.fmin(error, 0.0, xtol=1e-5, ftol=1e-5, disp=False)[0]
    scale, offset = np.linalg.lstsq(design(log_rate), smooth, rcond=None)[0]
    return scale * np.exp(-np.exp(log_rate) * horizon) + offset


def exponential(points, scale, decay, offset):
    """A clean series: ``decay`` is how many times it falls by e over its length."""
    return scale * np.exp(-decay * np.arange(points) / points) + offset


@pytest.mark.parametrize("points", [100, 200, 400, 800])
@pytest.mark.parametrize("decay", [0.1, 0.3, 1.0, 3.0, 10.0])
@pytest.mark.parametrize(("scale", "offset"), [(0.3, 2.0), (2.0, 0.5), (4.0, 0.1)])
def test_agrees_with_the_published_code_on_clean_exponentials(points, decay, scale, offset):
    series = exponential(points, scale, decay, offset)
    expected = published_forecast(series, 10 * points, training=True)
    assert TRAINING.forecast(series, 10 * points).loss == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("decay", [0.3, 1.0, 3.0])
def test_agrees_with_the_published_code_on_validation_losses(decay):
    series = exponential(16, 1.0, decay, 2.0)
    expected = published_forecast(series, 160, training=False)
    assert VALIDATION.forecast(series, 160).loss == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("decay", [0.03, 0.1, 0.3])
def test_finds_the_true_curve_where_a_parabola_describes_the_probe(decay):
    series = exponential(100, 2.0, decay, 1.0)
    truth = 2.0 * math.exp(-decay * 3) + 1.0
    assert TRAINING.forecast(series, 300).loss == pytest.approx(truth, rel=0.02)


def test_outlier_in_the_first_half_is_dropped_and_in_the_second_half_is_not():
    series = exponential(100, 1.0, 1.0, 2.0)
    clean = TRAINING.forecast(series, 1000).loss
    early, late = series.copy(), series.copy()
    early[20] += 3.0
    late[80] += 3.0
    assert TRAINING.forecast(early, 1000).loss == pytest.approx(clean, rel=0.01)
    assert abs(TRAINING.forecast(late, 1000).loss - clean) > 0.1 * clean


def test_short_training_series_keeps_its_points():
    """The published code's filter drops the whole first half of a series of 16 points."""
    series = exponential(16, 1.0, 1.0, 2.0)
    smooth = TRAINING._denoise(series)
    parabola = np.polyval(np.polyfit(np.arange(16), series, 2), np.arange(16))
    assert smooth == pytest.approx(parabola, rel=1e-9)


def test_standard_deviation_grows_with_noise_and_horizon():
    noise = np.random.default_rng(0).normal(size=100)
    series = exponential(100, 1.0, 2.0, 2.0)
    quiet = TRAINING.forecast(series + 0.01 * noise, 300)
    loud = TRAINING.forecast(series + 0.1 * noise, 300)
    near = TRAINING.forecast(series + 0.01 * noise, 110)
    assert 0 < near.std < quiet.std < loud.std


def test_standard_deviation_covers_the_scatter_of_forecasts():
    """Over draws of the noise, forecasts scatter as widely as they say, within a factor of 3."""
    generator = np.random.default_rng(1)
    series = exponential(200, 1.0, 1.0, 2.0)
    forecasts = [
        TRAINING.forecast(series + 0.02 * generator.normal(size=200), 300) for _ in range(50)
    ]
    scatter = np.std([forecast.loss for forecast in forecasts])
    told = np.median([forecast.std for forecast in forecasts])
    assert scatter / 3 < told < scatter * 3


@pytest.mark.parametrize(
    "series",
    [
        np.full(100, 2.0),
        np.linspace(3.0, 2.0, 100),
        np.linspace(2.0, 3.0, 100),
        np.geomspace(2.0, 1e30, 100),
        np.where(np.arange(100) % 7 == 0, 50.0, 2.0),
        2.0 - 1e-12 * np.arange(100),
        np.linspace(0.0, 1.7e308, 100),
        np.append(np.ones(99), 1e200),
    ],
    ids=[
        "constant",
        "falling line",
        "rising line",
        "exploding",
        "spikes",
        "almost constant",
        "vast",
        "late vast spike",
    ],
)
@pytest.mark.parametrize("forecaster", [TRAINING, VALIDATION], ids=["training", "validation"])
def test_odd_series_give_finite_forecasts(series, forecaster):
    forecast = forecaster.forecast(series, 1000)
    assert math.isfinite(forecast.loss)
    assert forecast.std >= 0
    assert math.isfinite(forecast.std)


def test_constant_series_stays():
    assert TRAINING.forecast([2.0] * 50, 500).loss == pytest.approx(2.0, abs=1e-9)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([1.0] * (MIN_SERIES_POINTS - 1), "has 7 points; a forecast needs at least 8"),
        ([1.0] * 9 + [math.nan], "is not finite"),
        ([1.0] * 9 + [math.inf], "is not finite"),
    ],
)
def test_series_without_a_forecast_are_refused(losses, message):
    with pytest.raises(ValueError, match=message):
        TRAINING.forecast(losses, 100)


def test_straight_line_is_not_trusted():
    assert not TRAINING.forecast(np.linspace(3.0, 2.9, 100).tolist(), 1000).trusted


def test_clear_exponential_is_trusted():
    noise = 0.01 * np.random.default_rng(0).normal(size=100)
    assert TRAINING.forecast(exponential(100, 1.0, 3.0, 2.0) + noise, 1000).trusted
