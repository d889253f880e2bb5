"""The weighted mean of probes; what else the searches share is tested with each of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_autolrs.algorithm.first_search import weighted_mean_lr
from tests.algorithm.made_up_runs import result


@pytest.mark.parametrize(
    ("losses", "initial_loss", "mean"),
    [
        ([1.0, 1.0, 1.0], 2.0, 0.1),
        ([1.0, 1.03, 9.0], 2.0, 10 ** -(2 - 1 / (1 + math.e))),  # weights 1, 1/e and 0
        ([1.0, 1.06, 9.0], 3.0, 10 ** -(2 - 1 / (1 + math.e))),  # twice the loss gained
        ([9.0, 9.0, 1.0], 2.0, 1.0),
        ([1.0, 1.03, 9.0], 0.5, 10 ** -(2 - 1 / (1 + math.e))),  # nothing gained: of the loss
        ([1.0, 1.03, 9.0], math.nan, 10 ** -(2 - 1 / (1 + math.e))),
        ([1.0, None, 1.0], 2.0, 0.1),
    ],
)
def test_weighted_mean(losses, initial_loss, mean):
    results = [
        result(i, lr, loss)
        for i, (lr, loss) in enumerate(zip([0.01, 0.1, 1.0], losses, strict=True))
    ]
    judged = [r for r in results if r.forecast is not None]
    assert weighted_mean_lr(judged, initial_loss, 0.03) == pytest.approx(mean, rel=1e-9)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(losses=st.lists(st.floats(-5, 5), min_size=3, max_size=3), shift=st.floats(-3, 3))
def test_weighted_mean_lies_between_and_does_not_see_a_shift_of_the_loss(losses, shift):
    lrs = [0.01, 0.1, 1.0]
    near = [result(i, lr, loss) for i, (lr, loss) in enumerate(zip(lrs, losses, strict=True))]
    moved = [
        result(i, lr, loss + shift) for i, (lr, loss) in enumerate(zip(lrs, losses, strict=True))
    ]
    mean = weighted_mean_lr(near, 10.0, 0.03)
    assert 0.01 * (1 - 1e-9) <= mean <= 1 + 1e-9
    assert weighted_mean_lr(moved, 10.0 + shift, 0.03) == pytest.approx(mean, rel=1e-6)


def test_a_higher_temperature_weighs_more_alike():
    near = [result(0, 0.01, 1.0), result(1, 1.0, 1.1)]
    means = [weighted_mean_lr(near, 2.0, temperature) for temperature in (1e-4, 0.05, 0.5, 1e6)]
    assert means == sorted(means)
    assert means[0] == pytest.approx(0.01)
    assert means[-1] == pytest.approx(0.1, rel=1e-3)
