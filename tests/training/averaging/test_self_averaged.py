"""Optimizers that average the weights in their own steps, as the schedulefree package's do."""

from __future__ import annotations

from typing import Any

import pytest
import schedulefree
import torch
from torch import nn

from ray_autolrs.training.averaging.average import Averaging, averages_itself
from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree
from tests.training.test_snapshot import OPTIMIZERS
from tests.training.toy import (
    ToyTask,
    assert_near,
    averages,
    differs,
    full_net,
    make_worker,
    plain_net,
    sgd,
    train,
    values,
)


def package_s(name: str) -> Any:
    """Return it as it is made: in evaluation mode."""
    return lambda model: getattr(schedulefree, name)(model.parameters(), lr=0.05)


SELF_AVERAGED: dict[str, Any] = {
    "AdamWScheduleFree": package_s("AdamWScheduleFree"),
    "SGDScheduleFree": package_s("SGDScheduleFree"),
    "RAdamScheduleFree": package_s("RAdamScheduleFree"),
    "ScheduleFree": lambda model: ScheduleFree(sgd(model), momentum=0.8),
}


@pytest.mark.parametrize("name", SELF_AVERAGED)
def test_they_are_not_averaged_twice(averaging: Averaging, name: str):
    message = f"the optimizer {name} averages the weights itself.* set averaging=None, or use"
    with pytest.raises(ValueError, match=message):
        make_worker(ToyTask(full_net, SELF_AVERAGED[name]), averaging)


@pytest.mark.parametrize("name", SELF_AVERAGED)
def test_their_average_is_looked_at_and_leaves_no_trace(name: str):
    worker = make_worker(ToyTask(full_net, SELF_AVERAGED[name]))
    other = make_worker(ToyTask(full_net, SELF_AVERAGED[name]))
    losses = []
    for step in range(9):
        losses += train(worker, step, 1)
        with worker.engine.averaged(step + 1):
            pass
    assert train(other, 0, 9) == losses
    assert not differs(values(worker.replica), values(other.replica))
    held, at = values(worker.replica), averages(worker)
    assert differs(held, at)
    optimizer: Any = other.replica.optimizer
    optimizer.eval()
    assert_near(at, values(other.replica))
    assert not differs(values(worker.replica), held)


def test_batch_norm_is_calibrated_and_a_snapshot_holds_the_average():
    worker = make_worker(ToyTask(full_net, SELF_AVERAGED["AdamWScheduleFree"]))
    first = train(worker, 0, 6)
    norm = worker.replica.module[1]  # type: ignore[index]
    held, at = norm.running_mean.clone(), averages(worker)
    with worker.engine.averaged(6):
        assert not torch.equal(norm.running_mean, held)
    assert torch.equal(norm.running_mean, held)
    worker.snapshot.restore(worker.replica)
    assert train(worker, 0, 6) == first
    assert not differs(averages(worker), at)


class AsAcceleratePassesIt:
    """Has the modes around every optimizer, as Accelerate's wrapper."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups

    def train(self) -> None:
        return

    def eval(self) -> None:
        return


def test_which_optimizers_average_themselves():
    def both(optimizer: torch.optim.Optimizer) -> tuple[bool, bool]:
        wrapped: Any = AsAcceleratePassesIt(optimizer)
        return averages_itself(optimizer), averages_itself(wrapped)

    model: nn.Module = plain_net()
    for name, build in OPTIMIZERS.items():
        assert both(build(model)) == ((True, True) if name == "schedule_free" else (False, False))
    for name in SELF_AVERAGED:
        assert both(SELF_AVERAGED[name](model)) == (True, True)
