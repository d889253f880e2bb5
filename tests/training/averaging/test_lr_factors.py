"""An LR means the same with and without the average: what each optimizer's momentum did."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ray_autolrs.training.averaging.lr_factors import momentum_of
from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree
from tests.training.test_snapshot import OPTIMIZERS
from tests.training.toy import Build, plain_net, sgd_with


class Lion(torch.optim.Optimizer):
    """Someone's own optimizer: steps of the LR's length, whatever its momentum."""

    def __init__(self, parameters: Any, momentum: float) -> None:
        super().__init__(parameters, {"lr": 0.1, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                mean = state.setdefault("mean", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["momentum"])
                p.sub_(mean.sign(), alpha=group["lr"])


class HeavyBall(Lion):
    """Someone's own SGD, which is not a subclass of torch's."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                total = self.state[p].setdefault("total", torch.zeros_like(p))
                p.sub_(total.mul_(group["momentum"]).add_(p.grad), alpha=group["lr"])


class Broken(Lion):
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        raise RuntimeError("needs a GPU")


def muon(model: nn.Module) -> torch.optim.Optimizer:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch has Muon since 2.9")
    return torch.optim.Muon([p for p in model.parameters() if p.ndim == 2], lr=0.1)


@pytest.mark.parametrize(
    ("build", "factor", "off"),
    [
        (sgd_with(), 1.0, {"momentum": 0.0}),
        (sgd_with(momentum=0.9), 10.0, {"momentum": 0.0}),
        (sgd_with(momentum=0.5, nesterov=True), 2.0, {"momentum": 0.0, "nesterov": False}),
        (sgd_with(momentum=0.75, dampening=0.5), 2.0, {"momentum": 0.0, "dampening": 0.0}),
        (OPTIMIZERS["rmsprop"], 10.0, {"momentum": 0.0}),
        (OPTIMIZERS["adam"], 1.0, {"betas": (0.0, 0.999)}),
        (OPTIMIZERS["nadam"], 1.0, {"betas": (0.0, 0.999)}),
        (OPTIMIZERS["adagrad"], 1.0, {}),
        (lambda model: torch.optim.Adadelta(model.parameters()), 1.0, {}),
        (muon, 1.0, {"momentum": 0.0}),
        (lambda model: Lion(model.parameters(), 0.99), 1.0, {"momentum": 0.0}),
        (lambda model: HeavyBall(model.parameters(), 0.9), 10.0, {"momentum": 0.0}),
    ],
)
def test_momentum_is_turned_off_and_made_up_for(build: Build, factor: float, off: dict[str, Any]):
    optimizer = build(plain_net())
    (group,) = optimizer.param_groups
    lr = group["lr"]
    ScheduleFree(optimizer)
    assert {name: group[name] for name in off} == off
    assert group["lr_factor"] == pytest.approx(factor, rel=1e-4)
    assert group["lr"] == lr
    assert not optimizer.state or build is OPTIMIZERS["adagrad"]  # nothing was trained


@pytest.mark.parametrize(
    "build",
    [
        sgd_with(momentum=0.9),
        OPTIMIZERS["adam"],
        OPTIMIZERS["nadam"],
        lambda model: torch.optim.RMSprop(model.parameters(), momentum=0.9),
        lambda model: torch.optim.Adagrad(model.parameters()),
        muon,
        lambda model: torch.optim.RAdam(model.parameters()),
        lambda model: torch.optim.Adamax(model.parameters()),
    ],
)
def test_late_steps_are_as_long_as_those_of_the_base(build: Build):
    """Along a gradient that stays the same, after the base's momentum has built up."""

    def last_step(wrapped: bool) -> float:
        torch.manual_seed(0)
        model = plain_net()
        optimizer = build(model)
        takes_steps = ScheduleFree(optimizer, momentum=0.5, power=0) if wrapped else optimizer
        generator = torch.Generator().manual_seed(1)
        gradients = [torch.rand(p.shape, generator=generator).double() for p in model.parameters()]
        parameters = optimizer.param_groups[0]["params"]
        before = torch.zeros(())
        for _ in range(500):
            for group in takes_steps.param_groups:
                group["lr"] = 1e-6
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p.grad = gradient.clone()
            held = optimizer.state[parameters[0]].get("z", parameters[0].detach())
            before = held.clone()
            takes_steps.step()
        after = optimizer.state[parameters[0]].get("z", parameters[0].detach())
        return float((after - before).norm())

    assert last_step(wrapped=True) == pytest.approx(last_step(wrapped=False), rel=0.02)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda model: Broken(model.parameters(), 0.9), "Broken .* build it with momentum=0"),
        (sgd_with(momentum=1.0), r"SGD has momentum=1.0; it must lie in \[0, 1\)"),
    ],
)
def test_a_momentum_that_cannot_be_made_up_for_is_refused(build: Build, message: str):
    with pytest.raises(ValueError, match=message):
        ScheduleFree(build(plain_net()))


@pytest.mark.parametrize("alpha", [0.5, 0.99])
def test_steps_of_rmsprop_are_as_long_as_its_lr_says(alpha: float):
    """Where gradients stay the same, each element moves by the LR, from the first step on."""
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 30.0]))
    before = parameter.detach().clone()
    base = torch.optim.RMSprop([parameter], lr=0.01, alpha=alpha, eps=1e-12)
    optimizer = ScheduleFree(base, momentum=0.8, power=0.0)
    for step in range(20):
        parameter.grad = torch.tensor([1e-3, -1.0, 50.0])
        optimizer.step()
        moved = (before - optimizer.state[parameter]["z"]) / parameter.grad.sign()
        assert moved == pytest.approx(torch.full((3,), 0.01 * (step + 1)), rel=1e-4)


def test_the_momentum_of_a_group():
    model = plain_net()
    builds = {"sgd_momentum": 0.9, "adam": 0.9, "adagrad": 0.0, "rmsprop": 0.9}
    assert {name: momentum_of(OPTIMIZERS[name](model).param_groups[0]) for name in builds} == builds
