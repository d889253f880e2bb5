"""What takes an optimizer takes ScheduleFree: schedulers, scalers, closures and Accelerate."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR

from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree
from tests.training.averaging.test_schedule_free_optimizer import (
    backward,
    batch,
    built,
    tensors,
    train,
)
from tests.training.test_snapshot import OPTIMIZERS
from tests.training.toy import differs, full_net, plain_net, sgd


def test_a_closure_computes_the_gradients():
    model, other = built(plain_net), built(plain_net)
    with_closure, without = ScheduleFree(sgd(model)), ScheduleFree(sgd(other))
    for step in range(3):

        def closure(step: int = step) -> float:
            return backward(model, step).item()

        assert with_closure.step(closure) == backward(other, step).item()
        assert without.step() is None
    assert not differs(tensors(model), tensors(other))


def test_an_lr_is_the_user_s_and_schedulers_set_it():
    model = built(plain_net)
    optimizer = ScheduleFree(sgd(model))
    with pytest.raises(ValueError, match="cycle_momentum"):
        OneCycleLR(optimizer, 0.5, total_steps=10)
    OneCycleLR(optimizer, 0.5, total_steps=10, cycle_momentum=False)
    makers: list[Any] = [
        lambda optimizer: CosineAnnealingLR(optimizer, 8),
        lambda optimizer: LambdaLR(optimizer, lambda number: 1 / (1 + number)),
    ]
    for make in makers:
        ours, plain = ScheduleFree(sgd(built(plain_net))), sgd(built(plain_net))
        schedulers = make(ours), make(plain)
        for step in range(8):
            for optimizer_, scheduler in zip((ours, plain), schedulers, strict=True):
                for parameter in optimizer_.param_groups[0]["params"]:
                    parameter.grad = torch.ones_like(parameter)
                optimizer_.step()
                scheduler.step()
            assert ours.param_groups[0]["lr"] == plain.param_groups[0]["lr"], step


def test_an_lr_tensor_stays_what_it_is():
    model, other = built(plain_net), built(plain_net)
    lr = torch.tensor(0.0625)
    as_tensor = ScheduleFree(torch.optim.Adam(model.parameters(), lr=lr))
    as_number = ScheduleFree(torch.optim.Adam(other.parameters(), lr=0.0625))
    assert train(model, as_tensor, range(4)) == train(other, as_number, range(4))
    assert as_tensor.param_groups[0]["lr"] is lr
    assert lr.item() == 0.0625


def test_a_gradient_scaler_takes_it():
    model, other = built(plain_net).float(), built(plain_net).float()
    scaled, plain = ScheduleFree(sgd(model)), ScheduleFree(sgd(other))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(5):
        torch.manual_seed(step)
        scaled.zero_grad()
        scaler.scale(model(batch(step, model)).square().mean()).backward()
        scaler.unscale_(scaled)
        scaler.step(scaled)
        scaler.update()
        train(other, plain, range(step, step + 1))
    assert not differs(tensors(model), tensors(other))  # a power of two scales without rounding


def test_accelerate_prepares_it():
    pytest.importorskip("accelerate", reason="needs the extra transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
    model, other = built(full_net), built(full_net)
    plain = ScheduleFree(OPTIMIZERS["adam"](model))
    scheduler = CosineAnnealingLR(plain, 8)
    given = ScheduleFree(OPTIMIZERS["adam"](other))
    prepared, optimizer, prepared_scheduler = accelerator.prepare(
        other, given, CosineAnnealingLR(given, 8)
    )
    for step in range(6):
        optimizer.train()
        for net, stepped, then in (
            (model, plain, scheduler),
            (prepared, optimizer, prepared_scheduler),
        ):
            backward(net, step)
            stepped.step()
            then.step()
        assert not differs(tensors(model), tensors(other))
        optimizer.eval()
    plain.eval()
    assert not differs(tensors(model), tensors(other))
