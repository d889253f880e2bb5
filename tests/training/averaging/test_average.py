"""What holds for every average, a user's own included."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.averaging.ema import EMA
from tests.training.test_snapshot import OPTIMIZERS
from tests.training.toy import (
    Mean,
    ToyTask,
    assert_near,
    assert_same,
    averages,
    differs,
    full_net,
    make_worker,
    plain_net,
    sgd_with,
    state_of,
    train,
    values,
)

INNER = {name: build for name, build in OPTIMIZERS.items() if name != "schedule_free"}


def test_one_s_own_average_is_all_that_a_run_needs():
    """It is in the user's file alone: no registry names it."""
    worker = make_worker(ToyTask(plain_net), Mean())
    seen = [values(worker.replica)]
    for step in range(4):
        train(worker, step, 1)
        seen.append(values(worker.replica))
    means = [torch.stack(tensors).mean(dim=0) for tensors in zip(*seen[1:], strict=True)]
    assert_near(averages(worker), means)


@pytest.mark.parametrize("averaging", [None, EMA(), Mean()])
def test_only_schedule_free_changes_the_training(averaging: Averaging | None):
    averaged, plain = make_worker(ToyTask(), averaging), make_worker(ToyTask())
    assert train(averaged, 0, 8) == train(plain, 0, 8)
    assert not differs(values(averaged.replica), values(plain.replica))


def test_calibration_batches_are_checked():
    for batches in (0, 2.5, True):
        with pytest.raises(ValueError, match=r"calibration_batches=.* an integer of at least 1"):
            Mean(calibration_batches=batches)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", INNER)
def test_restoring_leaves_no_trace_of_training(averaging: Averaging, optimizer: str):
    worker = make_worker(ToyTask(full_net, OPTIMIZERS[optimizer]), averaging)
    start = state_of(worker.replica)
    first = train(worker, 0, 4, lr=0.01)
    worker.snapshot.restore(worker.replica)
    assert_same(state_of(worker.replica), start)
    assert train(worker, 0, 4, lr=0.01) == first
    worker.take_snapshot(4)
    before, at = state_of(worker.replica), averages(worker)
    losses, ends = [], []
    for _ in range(2):
        losses.append(train(worker, 4, 5, lr=0.02))
        ends.append(averages(worker))
        assert differs(ends[-1], at)
        worker.snapshot.restore(worker.replica)
        assert_same(state_of(worker.replica), before)
        assert not differs(averages(worker), at)
    assert losses[0] == losses[1]
    assert not differs(ends[0], ends[1])


@pytest.mark.parametrize("optimizer", ["sgd_momentum", "adam", "adamw_groups"])
def test_a_saved_state_continues_in_a_fresh_worker(averaging: Averaging, optimizer: str):
    task = ToyTask(full_net, OPTIMIZERS[optimizer], augment=True)
    worker = make_worker(task, averaging)
    train(worker, 0, 4)
    worker.take_snapshot(4)
    file = io.BytesIO()
    torch.save(worker.snapshot.state_dict(), file)
    expected, at = train(worker, 4, 6), averages(worker)

    file.seek(0)
    fresh = make_worker(task, averaging)
    fresh.snapshot.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):  # what was loaded is not what trains
        assert fresh.snapshot.restore(fresh.replica) == 4
        assert train(fresh, 4, 6) == expected
        assert not differs(averages(fresh), at)
    assert_same(state_of(fresh.replica), state_of(worker.replica))


def test_the_snapshot_of_another_average_is_refused(averaging: Averaging):
    plain, averaged = make_worker(ToyTask()), make_worker(ToyTask(), averaging)
    averaged.snapshot.load_state_dict(plain.snapshot.state_dict())
    with pytest.raises(
        ValueError, match=r"another average of the weights: .* and NoAverage of 0 in"
    ):
        averaged.snapshot.restore(averaged.replica)


class Odd(nn.Module):
    """With a frozen parameter, one that no loss depends on, a scalar and strided ones."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain_net()
        self.net[0].bias.requires_grad_(False)  # type: ignore[index]
        self.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.turned = nn.Parameter(torch.eye(4, 6, dtype=torch.float64).T)
        image = torch.ones(2, 3, 2, 2, dtype=torch.float64)
        self.kernel = nn.Parameter(image.to(memory_format=torch.channels_last))

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(x + x @ self.turned @ self.turned.T)
        result: Tensor = self.scale * out + self.kernel.mean() * x[:, :3]
        return result


@pytest.mark.parametrize("build", [sgd_with(momentum=0.9), OPTIMIZERS["adam"]])
def test_parameters_of_every_kind_are_averaged(averaging: Averaging, build: Any):
    worker = make_worker(ToyTask(Odd, build), averaging)
    module = worker.replica.module
    assert isinstance(module, Odd)
    names = [name for name, _ in module.named_parameters()]
    start = dict(zip(names, values(worker.replica), strict=True))
    losses = train(worker, 0, 8, lr=0.01)
    now = dict(zip(names, values(worker.replica), strict=True))
    at = dict(zip(names, averages(worker), strict=True))
    for name in names:
        stays = name in ("unused", "net.0.bias")
        assert torch.equal(now[name], start[name]) == stays, name
        assert torch.equal(at[name], start[name]) == stays, name
        assert torch.equal(at[name], now[name]) == stays, name
    worker.snapshot.restore(worker.replica)
    assert train(worker, 0, 8, lr=0.01) == losses


def rest_frozen(model: nn.Module) -> torch.optim.Optimizer:
    first, *rest = model.parameters()
    groups: list[dict[str, Any]] = [{"params": [first]}, {"params": rest, "lr": 0.0}]
    return torch.optim.SGD(groups, lr=0.1)


def test_a_group_whose_lr_is_zero_stays(averaging: Averaging):
    worker = make_worker(ToyTask(plain_net, rest_frozen), averaging)
    first, *rest = values(worker.replica)
    train(worker, 0, 5)
    first_now, *rest_now = averages(worker)
    assert not torch.equal(first_now, first)
    assert not differs(rest_now, rest)


class LookedError(Exception):
    pass


def test_a_look_at_the_average_leaves_no_trace(averaging: Averaging):
    worker = make_worker(ToyTask(), averaging)
    train(worker, 0, 5)
    before = state_of(worker.replica)
    now, at = values(worker.replica), averages(worker)
    assert differs(now, at)
    for raises in (False, True, False):
        try:
            with worker.replica.average.swapped_in():
                assert not differs(values(worker.replica), at)
                if raises:
                    raise LookedError
        except LookedError:
            assert raises
        assert not differs(values(worker.replica), now)
    assert_same(state_of(worker.replica), before)
