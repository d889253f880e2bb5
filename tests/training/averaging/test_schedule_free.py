from __future__ import annotations

from typing import Any

import pytest
import torch
from schedulefree import ScheduleFreeWrapper, SGDScheduleFree

from ray_autolrs.algorithm.schedules.interpolation import Interpolation
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.random_streams import Stream, seed_everything
from ray_autolrs.training.worker import Worker
from tests.training.test_snapshot import two_groups
from tests.training.toy import (
    ToyTask,
    assert_near,
    averages,
    differs,
    full_net,
    make_worker,
    plain_net,
    sgd_with,
    train,
    values,
)


def micro(worker: Worker, step: int) -> Any:
    batch = worker.engine.batches.micro(step, 0)
    seed_everything(0, Stream.MODEL, step, 0)
    return batch


@pytest.mark.parametrize(("momentum", "power"), [(0.9, 0.0), (0.7, 2.0)])
def test_schedule_free_is_the_package_s_own_sgd(momentum: float, power: float):
    worker = make_worker(
        ToyTask(full_net),
        ScheduleFreeAverage(momentum=momentum, power=power),
    )
    reference = make_worker(ToyTask(full_net)).replica
    parameters = reference.module.parameters()
    optimizer = SGDScheduleFree(parameters, lr=1.0, momentum=momentum, r=power)
    optimizer.train()
    for step in range(12):
        lr = 0.03 * min(1.0, (step + 1) / 5)
        train(worker, step, 1, lr=lr)
        for group in optimizer.param_groups:
            group["lr"] = 10 * lr  # the task's SGD has a momentum of 0.9
        reference.module.train()
        batch = micro(worker, step)
        optimizer.zero_grad()
        reference.task.loss(reference.module, batch).backward()
        optimizer.step()
        assert_near(values(worker.replica), values(reference))
    at = averages(worker)
    assert differs(at, values(worker.replica))
    optimizer.eval()
    assert_near(at, values(reference))


def test_schedule_free_is_the_package_s_wrapper_around_any_optimizer():
    worker = make_worker(
        ToyTask(full_net, two_groups),
        ScheduleFreeAverage(momentum=0.8, power=1.0),
    )
    reference = make_worker(ToyTask(full_net)).replica
    first, *rest = reference.module.parameters()
    groups: list[dict[str, Any]] = [{"params": [first]}, {"params": rest}]
    # Two wrappers, because the package's lets the optimizer take its state for its own.
    inner = [torch.optim.AdamW(group["params"], betas=(0.0, 0.999)) for group in groups]
    for adam in inner:
        for parameter in adam.param_groups[0]["params"]:
            adam.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
    wrappers = [ScheduleFreeWrapper(adam, momentum=0.8, r=1.0) for adam in inner]
    for step in range(10):
        train(worker, step, 1, lr=0.02)
        batch = micro(worker, step)
        reference.clear_gradients()
        reference.module.train()
        reference.task.loss(reference.module, batch).backward()
        for wrapper, lr in zip(wrappers, (0.02, 0.06), strict=True):
            wrapper.train()
            wrapper.param_groups[0]["lr"] = lr
            wrapper.step()
        assert_near(values(worker.replica), values(reference))
    for wrapper in wrappers:
        wrapper.eval()
    assert_near(averages(worker), values(reference))


def test_a_step_that_overflows_is_skipped():
    worker = make_worker(
        ToyTask(lambda: plain_net().float(), sgd_with(), precision="fp16"), ScheduleFreeAverage()
    )
    x, y = worker.engine.batches.micro(0, 0)
    losses = torch.zeros(1, dtype=torch.float64)
    worker.replica.take_step(0, [[x.float(), y]], range(1), 0.1, losses)
    before, at = values(worker.replica), averages(worker)
    worker.replica.take_step(1, [[1e9 * x.float(), y]], range(1), 0.1, losses)
    assert not differs(values(worker.replica), before)
    assert not differs(averages(worker), at)


def test_the_momentum_follows_the_batch_unless_it_is_given():
    assert ScheduleFreeAverage(momentum=0.9).resolve(8) == ScheduleFreeAverage(momentum=0.9)
    resolved = ScheduleFreeAverage(power=1.0).resolve(32)
    assert resolved == ScheduleFreeAverage(momentum=0.8, power=1.0) == resolved.resolve(2048)
    assert resolved.interpolation == Interpolation(0.8, 1.0)
    for needs_momentum in (
        lambda: ScheduleFreeAverage().build(sgd_with()(plain_net())),
        lambda: ScheduleFreeAverage().interpolation,
    ):
        with pytest.raises(ValueError, match="momentum=None depends on the batch"):
            needs_momentum()
    weak = train(make_worker(ToyTask(), ScheduleFreeAverage(momentum=0.5)), 0, 5)
    assert weak != train(make_worker(ToyTask(), ScheduleFreeAverage()), 0, 5)


@pytest.mark.parametrize(
    "fields", [{"momentum": 1.0}, {"momentum": 0}, {"power": -1.0}, {"power": float("inf")}]
)
def test_fields_are_checked(fields: dict[str, Any]):
    with pytest.raises(ValueError, match=f"ScheduleFreeAverage.{next(iter(fields))}="):
        ScheduleFreeAverage(**fields)
