"""The posterior on a few points: each fit takes as long as a hundred other tests."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from botorch.exceptions.errors import ModelFittingError

from ray_autolrs.algorithm.search import gp_model
from ray_autolrs.algorithm.search.gp_model import posterior

AT = np.linspace(0.0, 1.0, 101)
TOLD = [0.05, 0.25, 0.5, 0.75, 0.95]


def bowl(x):
    return 2 + 4 * (x - 0.6) ** 2


def place(x):
    return round(100 * x)


@pytest.fixture(scope="module")
def fitted():
    """μ and σ given five points of a bowl, and the global random state before and after."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    mean, std, _ = posterior(TOLD, [bowl(x) for x in TOLD], [], AT)
    return mean, std, torch.equal(torch.get_rng_state(), before)


def test_the_mean_follows_the_losses_in_standard_units(fitted):
    mean, _, _ = fitted
    losses = np.array([bowl(x) for x in TOLD])
    standardised = (losses - losses.mean()) / losses.std(ddof=1)
    assert mean[[place(x) for x in TOLD]] == pytest.approx(standardised, abs=0.1)
    assert AT[np.argmin(mean)] == pytest.approx(0.6, abs=0.05)


def test_the_deviation_is_smallest_where_something_was_told(fitted):
    _, std, _ = fitted
    between = [(low + high) / 2 for low, high in itertools.pairwise(TOLD)]
    assert (
        max(std[[place(x) for x in TOLD]]) < min(std[[place(x) for x in between]]) < std.max() < 1.0
    )


def test_a_fit_leaves_the_global_random_state_alone(fitted):
    assert fitted[2]


def test_lrs_that_run_count_as_told_at_their_mean(fitted):
    """The kriging believer: they move no mean, and leave nothing to learn where they are."""
    mean, std, _ = fitted
    believed, less, _ = posterior(TOLD, [bowl(x) for x in TOLD], [0.37], AT)
    assert believed == pytest.approx(mean, abs=0.02)
    assert less[37] < 0.7 * std[37]
    assert less[85] == pytest.approx(std[85], rel=0.05)


def test_unit_and_origin_of_the_losses_do_not_matter(fitted):
    mean, std, _ = fitted
    moved = posterior(TOLD, [1000 * bowl(x) - 7 for x in TOLD], [], AT)
    assert moved[0] == pytest.approx(mean, abs=1e-4)
    assert moved[1] == pytest.approx(std, abs=1e-4)


def test_a_diverged_lr_counts_as_the_worst_that_was_told():
    found = posterior([0.1, 0.5, 0.9], [1.0, 2.0, None], [], AT)
    expected = posterior([0.1, 0.5, 0.9], [1.0, 2.0, 2.0], [], AT)
    assert np.array_equal(found[:2], expected[:2])


@pytest.mark.parametrize("losses", [[2.0, 2.0], [None, None], [2.0, None]])
def test_equal_outcomes_tell_nothing_of_the_length_scale(losses, monkeypatch):
    """So nothing is fitted: a fit takes the longest one, and the search then clings to the ends."""
    monkeypatch.setattr(gp_model, "fit_gpytorch_mll", None)
    mean, std, _ = posterior([0.2, 0.6], losses, [], AT)
    assert mean == pytest.approx(np.zeros(101), abs=1e-12)
    assert AT[np.argmax(std)] == 1.0
    assert std[40] > std[20] == pytest.approx(std[60], rel=0.1)


def test_where_nothing_was_told_the_lrs_that_run_are_all_that_is_known():
    mean, std, _ = posterior([], [], [0.3, 0.8], AT)
    assert mean == pytest.approx(np.zeros(101), abs=1e-12)
    assert {30, 80} == set(np.argsort(std)[:2])


@pytest.mark.parametrize("value", [1e11, -1.7e308, 1.7e308])
def test_absurd_losses_give_finite_numbers(value):
    mean, std, _ = posterior([0.1, 0.5, 0.9], [1.0, 2.0, value], [], AT)
    assert np.isfinite([mean, std]).all()
    assert (mean[90] > mean[10]) == (value > 0)


def test_a_fit_that_fails_keeps_the_prior(monkeypatch, caplog):
    def fail(_):
        raise ModelFittingError("no optimum")

    monkeypatch.setattr(gp_model, "fit_gpytorch_mll", fail)
    mean, _, _ = posterior([0.2, 0.6], [1.0, 2.0], [], AT)
    assert mean[20] < 0 < mean[60]
    assert "keeps its prior parameters: no optimum" in caplog.text
