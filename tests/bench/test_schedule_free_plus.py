from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.schedule_free_plus import LastLoss, PlusAverage, ScheduleFreePlus, telling_its_loss
from bench.tasks.tabular import Diabetes


def steps(average, weight, count, gradient=1.0):
    """Take steps along a constant gradient, and return y after each."""
    found = []
    for _ in range(count):
        weight.grad = torch.full_like(weight, gradient)
        average.optimizer.step()
        average.update()
        found.append(weight.item())
    return found


def built(**settings):
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0, weight_decay=settings.pop("decay", 0.0))
    return weight, PlusAverage(optimizer, ScheduleFreePlus(**settings))


def test_the_average_is_the_stepped_weights_until_the_equal_steps_are_over():
    weight, average = built(steps=4, equal_steps=2)
    # z goes -1, -2, -3, -4. After step 3 the average starts anew: x = -3, and then -3.5.
    found = steps(average, weight, 4)
    assert found[:3] == [-1.0, -2.0, -3.0]
    assert found[3] == pytest.approx(-4 * 0.035 - 3.5 * 0.965)
    with average.swapped_in():
        assert weight.item() == -3.5
    assert weight.item() == found[3]


def test_beta_goes_evenly_in_its_logarithm():
    weight, average = built(steps=2, equal_steps=0)
    found = steps(average, weight, 1)
    assert found == [-1.0]  # the first average is the first point
    found = steps(average, weight, 1)
    assert found[0] == pytest.approx(-2 * 0.035 - 1.5 * 0.965)


def test_the_weight_decay_falls_with_the_lr():
    weight, average = built(steps=4, equal_steps=4, decay=0.5)
    steps(average, weight, 1)
    average.optimizer.param_groups[0]["lr"] = 0.5
    steps(average, weight, 1)
    assert average.optimizer.param_groups[0]["weight_decay"] == 0.25


def test_a_polyak_step_is_the_loss_over_the_gradients_norm():
    last = LastLoss(torch.tensor(3.0))
    weight, average = built(steps=4, equal_steps=4, last_loss=last)
    # SGD: 3 / 2², along a gradient of 2.
    assert steps(average, weight, 1, gradient=2.0) == pytest.approx([-1.5])


def test_a_task_tells_its_training_loss_alone():
    last = LastLoss()
    task = telling_its_loss(Diabetes(), last)
    model = nn.Linear(2, 1)
    batch = torch.ones(3, 2), torch.ones(3)
    with torch.no_grad():
        task.loss(model, batch)
    assert last.loss is None
    assert task.loss(model, batch).item() == last.loss
