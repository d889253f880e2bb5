from __future__ import annotations

import math

import pytest

from ray_autolrs import AutoLRSConfig, Bracket
from ray_autolrs.comparison.runs import OURS, Trial, run_trial, train_autolrs
from tests.comparison.test_plain_training import Steep
from tests.digits_task import DigitsTask

STEPS = 120


class WithTestSet(DigitsTask):
    def test_dataset(self):
        return self.val_dataset()


@pytest.mark.parametrize("method", OURS)
def test_our_methods(method):
    trial = Trial(method=method, seed=1, steps=STEPS, lr_interval=(1e-2, 1.0))
    record = run_trial(WithTestSet(), trial)
    assert (record.method, record.lr, record.seed, record.steps) == (method, None, 1, STEPS)
    assert record.search_steps > 0
    assert record.curve[-1][0] == STEPS
    steps, losses = zip(*record.curve, strict=True)
    assert list(steps) == sorted(set(steps))
    # The default keeps its best model. Kept or last, it is the model that is tested.
    assert record.val_loss == (min(losses) if method == "autolrs" else losses[-1])
    assert record.test_loss == record.val_loss


def test_a_baseline():
    trial = Trial(method="cosine", seed=1, steps=STEPS, lr=0.1)
    record = run_trial(WithTestSet(), trial)
    assert (record.method, record.lr, record.seed, record.steps) == ("cosine", 0.1, 1, STEPS)
    assert record.search_steps == 0
    assert [step for step, _ in record.curve] == list(range(6, STEPS + 1, 6))
    assert record.test_loss == record.val_loss == record.curve[-1][1]


def test_a_search_in_which_every_lr_diverges_is_a_result():
    config = AutoLRSConfig(total_steps=200, lr=(1e6, 1e8), search=Bracket(probe_steps=50))
    record = train_autolrs(Steep(), config)
    assert record.diverged
    assert record.val_loss == math.inf
    assert record.seconds > 0


def test_a_run_without_an_end_is_refused():
    with pytest.raises(ValueError, match="total_steps=None: a comparison needs runs that end"):
        train_autolrs(DigitsTask(), AutoLRSConfig(total_steps=None, lr=(1e-2, 1.0)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "cosin", "lr": 0.1}, "method='cosin' must be one of autolrs, autolrs_paper, c"),
        ({"method": "cosine"}, r"Trial\.lr=None must be a positive, finite number"),
        ({"method": "cosine", "lr": 0.0}, r"Trial\.lr=0\.0 must be a positive"),
        ({"method": "autolrs", "lr": 0.1}, r"Trial\.lr_interval=None must be an interval"),
        ({"method": "cosine", "lr": 0.1, "steps": 0}, r"Trial\.steps=0 must be an integer of at"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(ValueError, match=message):
        Trial(**{"seed": 0, "steps": 10} | fields)
