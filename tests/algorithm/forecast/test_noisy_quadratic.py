"""The recursion of means and covariances against many simulated runs, and what follows from it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ray_autolrs.algorithm.forecast.noisy_quadratic import (
    CURVATURES,
    FASTEST,
    FASTEST_WITHOUT_AVERAGING,
    SLOWEST,
    Interpolation,
    NoisyQuadratic,
)

LRS = np.array([0.02, 0.05, 0.05, 0.1, 0.1, 0.1, 0.03, 0.03, 0.2, 0.2])


def quadratic(averaging=None, steps=1000):
    return NoisyQuadratic(0.2, steps, averaging)


@pytest.mark.parametrize("averaging", [None, Interpolation(0.8, 1.0), Interpolation(0.9, 0.0)])
def test_moments_are_those_of_many_noisy_runs(averaging):
    model, runs = quadratic(averaging), 20_000
    generator = np.random.default_rng(0)
    h = model.curvatures
    z = np.ones((runs, CURVATURES))
    x, weight, largest = z.copy(), 0.0, 0.0
    for number, lr in enumerate(LRS / model.lr_scale, start=1):
        momentum = 0.0 if averaging is None else averaging.momentum
        y = (1 - momentum) * z + momentum * x
        noise = np.sqrt(h) * generator.normal(size=z.shape)
        if averaging is None:
            z = x = np.exp(-lr * h) * z - lr * noise
            continue
        z = z - lr * (h * y + noise)
        largest = max(largest, lr)
        newest = number**averaging.power * largest**2
        weight += newest
        x = x + newest / weight * (z - x)
    _, end = model.walk(LRS, model.start())
    error = 5 / math.sqrt(runs)
    assert end.z == pytest.approx(z.mean(axis=0), abs=error)
    assert end.x == pytest.approx(x.mean(axis=0), abs=error)
    assert end.zz == pytest.approx(z.var(axis=0), rel=0.06)
    assert end.xx == pytest.approx(x.var(axis=0), rel=0.06)
    assert end.zx == pytest.approx(((z - z.mean(0)) * (x - x.mean(0))).mean(axis=0), rel=0.06)


@pytest.mark.parametrize("averaging", [None, Interpolation(0.8, 1.0)])
def test_a_walk_may_be_cut_anywhere(averaging):
    model = quadratic(averaging)
    rows, end = model.walk(LRS, model.start())
    first, middle = model.walk(LRS[:4], model.start())
    second, other_end = model.walk(LRS[4:], middle)
    assert np.array_equal(np.concatenate([first, second]), rows)
    assert np.array_equal(end.at_average, other_end.at_average)


def test_training_losses_are_read_where_gradients_are_taken():
    model = quadratic(Interpolation(0.75, 1.0))
    _, now = model.walk(LRS, model.start())
    rows, _ = model.walk(np.array([0.1]), now)
    assert rows[0, :CURVATURES] == pytest.approx((0.25 * now.z + 0.75 * now.x) ** 2)
    variance = 0.0625 * now.zz + 0.375 * now.zx + 0.5625 * now.xx
    assert rows[0, CURVATURES:] == pytest.approx(variance)


@pytest.mark.parametrize(
    ("averaging", "fastest"),
    [(None, FASTEST_WITHOUT_AVERAGING), (Interpolation(0.9, 1.0), FASTEST)],
)
@pytest.mark.parametrize("steps", [1, 100, 100_000])
def test_curvatures_reach_from_the_slowest_that_matters_to_the_fastest_that_is_stable(
    averaging, fastest, steps
):
    h = quadratic(averaging, steps).curvatures
    assert h[0] == pytest.approx(min(SLOWEST / steps, fastest / 2))
    assert h[-1] == pytest.approx(fastest)


@pytest.mark.parametrize("averaging", [None, Interpolation(0.8, 1.0)])
def test_an_lr_of_zero_moves_nothing(averaging):
    model = quadratic(averaging)
    _, now = model.walk(LRS, model.start())
    _, then = model.walk(np.zeros(3), now)
    assert np.array_equal(then.z, now.z)
    assert np.array_equal(then.zz, now.zz)
    if averaging is None:
        assert np.array_equal(then.at_average, now.at_average)
