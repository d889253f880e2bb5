from __future__ import annotations

import importlib.util
import math

import pytest

from ray_autolrs.comparison.baselines import BASELINES, ToldLRs, train_baseline
from tests.digits_task import DigitsTask

STEPS = 40
"""Warm-up is 2 steps of them, the long one 8."""

FACTORS = {
    "constant": {0: 0.5, 1: 1, 2: 1, 39: 1},
    "cosine": {0: 0.5, 1: 1, 2: 1, 21: 0.5, 39: 0.00170775},
    "linear": {0: 0.5, 1: 1, 2: 1, 21: 0.5, 39: 1 / 38},
    "polynomial": {0: 0.5, 1: 1, 2: 1, 21: 0.5**0.9, 39: (1 / 38) ** 0.9},
    # 12 steps of decay
    "wsd": {0: 0.5, 1: 1, 2: 1, 28: 1, 34: 0.5, 39: 1 / 12},
    "inverse_sqrt": {0: 0.5, 1: 1, 2: 1, 8: 0.5, 32: 0.25},
    "multi_step": {0: 0.5, 1: 1, 19: 1, 20: 0.1, 29: 0.1, 30: 0.01, 39: 0.01},
    "one_cycle": {0: 0.04, 11: 1, 25: 0.500002, 39: 4e-6},
    # Four cycles of 10 steps, at the peak in the middle
    "triangular": {0: 0.25, 1: 0.4, 5: 1, 10: 0.25, 15: 1, 35: 1, 39: 0.4},
    "triangular2": {0: 0.25, 1: 0.4, 5: 1, 10: 0.25, 15: 0.625, 25: 0.4375},
    "exp_range": {0: 0.25, 5: 0.812421, 10: 0.25, 15: 0.566273},
    # Cycles of 6, 12 and 24 steps
    "sgdr": {0: 0.5, 1: 1, 2: 1, 5: 0.5, 8: 1, 14: 0.5, 20: 1, 32: 0.5},
    "schedule_free": {0: 0.5, 1: 1, 2: 1, 39: 1},
    "prodigy": {0: 1, 20: 0.5},
    "greedy": {0: 0.5, 1: 1, 2: 1},
    "cosine_long_warmup": {0: 0.125, 7: 1, 8: 1, 24: 0.5},
    "wsd_long_warmup": {0: 0.125, 7: 1, 8: 1, 28: 1, 34: 0.5},
    "schedule_free_long_warmup": {0: 0.125, 7: 1, 8: 1, 39: 1},
}


@pytest.mark.parametrize("name", BASELINES)
def test_lrs(name):
    lrs = BASELINES[name].lrs(STEPS, peak_lr=0.2)
    factors = {step: lrs.lr_at(step) / 0.2 for step in range(STEPS)}
    expected = FACTORS[name]
    assert {step: factors[step] for step in expected} == pytest.approx(expected, rel=1e-5)
    assert min(factors.values()) > 0


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_short_runs(name, steps):
    lrs = BASELINES[name].lrs(steps, peak_lr=0.2)
    assert all(0 < lrs.lr_at(step) <= 0.2 + 1e-15 for step in range(steps))


def test_greedy_answers_the_loss():
    lrs = BASELINES["greedy"].lrs(100, peak_lr=1.0)
    assert isinstance(lrs, ToldLRs)
    seen = []
    for step in range(100):
        seen.append(lrs.lr_at(step))
        lrs.tell(5.0 - 0.01 * step)
    assert seen[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert 1.0 < seen[-1] <= 10.0
    for step in range(100, 400):
        lrs.lr_at(step)
        lrs.tell(9.0)
    assert 0.01 <= lrs.lr_at(400) < 1.0


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_trains(name):
    if name == "prodigy" and importlib.util.find_spec("prodigyopt") is None:
        pytest.skip("the package prodigyopt is not installed; it is not among the requirements")
    record = train_baseline(name, DigitsTask(), lr=0.1, steps=60, seed=0, eval_every=10)
    assert math.isfinite(record.val_loss)
    assert record.lr == (1.0 if name == "prodigy" else 0.1)
    if name != "prodigy":  # whose learning rate is still tiny
        assert record.val_loss < record.curve[0][1]


def test_prodigy_needs_its_package():
    if importlib.util.find_spec("prodigyopt") is not None:
        pytest.skip("the package prodigyopt is installed")
    with pytest.raises(ValueError, match="method='prodigy' needs the package prodigyopt"):
        train_baseline("prodigy", DigitsTask(), lr=0.1, steps=1, seed=0)


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match="method='cosin' must be one of constant, cosine"):
        train_baseline("cosin", DigitsTask(), lr=1.0, steps=1, seed=0)
