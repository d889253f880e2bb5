"""The weights of the lowest loss."""

from __future__ import annotations

import math

from torch import nn

from ray_autolrs.training.best_weights import BestWeights


def model_of(value: float) -> nn.Linear:
    model = nn.Linear(2, 1)
    fill(model, value)
    return model


def fill(model: nn.Linear, value: float) -> None:
    nn.init.constant_(model.weight, value)


def test_the_lowest_loss_is_kept_and_of_equals_the_first():
    best, model = BestWeights(), model_of(1.0)
    for step, loss in enumerate([2.0, 1.0, 1.0, 3.0, math.nan]):
        fill(model, step)
        best.offer(model, step, loss)
    assert (best.step, best.loss) == (1, 1.0)
    assert best.state["weight"].tolist() == [[1.0, 1.0]]


def test_nothing_is_copied_that_does_not_beat_what_there_is():
    best = BestWeights(to_beat=1.5)
    best.offer(model_of(1.0), 0, 1.5)
    assert (best.step, best.state) == (-1, {})
    best.offer(model_of(1.0), 1, 1.4)
    assert (best.step, best.loss) == (1, 1.4)


def test_another_s_are_taken_over_if_they_are_better():
    best, other = BestWeights(), BestWeights()
    best.take(other)
    assert best.step == -1
    other.offer(model_of(1.0), 5, 2.0)
    best.take(other)
    worse = BestWeights()
    worse.offer(model_of(2.0), 9, 2.5)
    best.take(worse)
    assert (best.step, best.loss) == (5, 2.0)
    assert best.state["weight"].tolist() == [[1.0, 1.0]]
