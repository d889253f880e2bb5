"""The averaging as an optimizer of its own, in plain loops."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import schedulefree
import torch
from torch import Tensor, nn

import ray_autolrs
from ray_autolrs.training.averaging import group_step, points
from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree
from tests.training.averaging.package_wrapper import PackageWrapper
from tests.training.test_snapshot import OPTIMIZERS, two_groups
from tests.training.toy import Build, assert_near, assert_same, differs, full_net, plain_net, sgd

BASES: dict[str, Build] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), betas=(0.0, 0.99)),
    "looped": lambda model: torch.optim.AdamW(model.parameters(), foreach=False),
    "two_groups": lambda model: two_groups(model),
    "adagrad": lambda model: torch.optim.Adagrad(model.parameters()),
}


class Image(nn.Module):
    """With a channels-last parameter, a scalar one, and one that no loss depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = full_net().float()
        kernel = torch.ones(2, 3, 2, 2).to(memory_format=torch.channels_last)
        self.kernel = nn.Parameter(kernel)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.scale * self.net(x) + self.kernel.mean()
        return out


def batch(step: int, like: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    dtype = next(like.parameters()).dtype
    return torch.randn(8, 6, generator=generator, dtype=torch.float64).to(dtype)


def backward(model: nn.Module, step: int) -> Tensor:
    torch.manual_seed(step)
    model.zero_grad()
    loss: Tensor = model(batch(step, model)).square().mean()
    loss.backward()
    return loss.detach()


def built(net: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return net()


def tensors(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def train(model: nn.Module, optimizer: Any, steps: range) -> list[float]:
    losses = []
    for step in steps:
        losses.append(backward(model, step).item())
        optimizer.step()
    return losses


NETS = {
    "plain": plain_net,
    "full": full_net,
    "image": Image,
    "bf16": lambda: plain_net().bfloat16(),
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("momentum", "power", "copied_bytes"), [(0.9, 0.0, None), (0.7, 2.0, 100)])
def test_it_is_the_package_s_wrapper_to_the_last_bit(
    base: str,
    net: str,
    momentum: float,
    power: float,
    copied_bytes: int | None,
    monkeypatch: pytest.MonkeyPatch,
):
    """In each other's memory, and copied as for optimizers that keep where parameters were."""
    if copied_bytes is not None:
        monkeypatch.setattr(points, "CHUNK_BYTES", copied_bytes)
        monkeypatch.setattr(group_step, "takes_any_memory", lambda _: False)
    model, other = built(NETS[net]), built(NETS[net])
    ours = ScheduleFree(BASES[base](model), momentum=momentum, power=power)
    theirs = BASES[base](other)
    for group in theirs.param_groups:
        if "betas" in group:
            group["betas"] = (0.0, *group["betas"][1:])
            group["fused"] = group["foreach"] is None
    package = PackageWrapper(theirs, momentum, power)
    for step in range(12):
        for group, twin in zip(ours.param_groups, theirs.param_groups, strict=True):
            group["lr"] = twin["lr"] = 0.05 * min(1.0, (step + 1) / 5) / (1 + step // 8)
        assert backward(model, step).equal(backward(other, step))
        ours.step()
        package.step()
        assert not differs(tensors(model), tensors(other))
    before = tensors(model)
    with ours.averaged():
        package.eval()
        assert not differs(tensors(model), tensors(other))
    assert not differs(tensors(model), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_adam_s_fused_kernel_is_taken_where_nothing_is_chosen(dtype: torch.dtype):
    """It gives what the loop over parameters gives, but for rounding, and leaves no trace."""
    models = [built(plain_net).to(dtype) for _ in range(2)]
    fused, looped = (
        ScheduleFree(torch.optim.AdamW(model.parameters(), lr=0.01, foreach=foreach))
        for model, foreach in zip(models, (None, False), strict=True)
    )
    kernels = []
    for optimizer in (fused, looped):
        optimizer.base.register_step_pre_hook(
            lambda base, *_: kernels.append(base.param_groups[0]["fused"])
        )
    for step in range(20):
        for model, optimizer in zip(models, (fused, looped), strict=True):
            backward(model, step)
            optimizer.step()
    assert kernels == 20 * [True, None]
    assert fused.param_groups[0]["fused"] is None
    eps = torch.finfo(dtype).eps
    for one, other in zip(*map(tensors, models), strict=True):
        assert torch.allclose(one, other, rtol=8 * eps, atol=8 * eps)


class KeepsAddresses(torch.optim.Optimizer):
    """Writes where the parameters lay when it was made, as those of flat buffers do."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.flat = [p.detach().view(-1) for p in self.param_groups[0]["params"]]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter, flat in zip(self.param_groups[0]["params"], self.flat, strict=True):
            flat.add_(parameter.grad.view(-1), alpha=-self.param_groups[0]["lr"])


def test_an_optimizer_may_keep_where_parameters_lie():
    model, other = built(plain_net), built(plain_net)
    flat = ScheduleFree(KeepsAddresses(model.parameters()))
    plain = ScheduleFree(torch.optim.SGD(other.parameters(), lr=0.1))
    addresses = [parameter.data_ptr() for parameter in other.parameters()]
    assert train(model, flat, range(6)) == train(other, plain, range(6))
    assert not differs(tensors(model), tensors(other))
    assert [parameter.data_ptr() for parameter in other.parameters()] == addresses


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "schedule_free"])
@pytest.mark.parametrize("saved_in", ["train", "eval"])
def test_a_saved_state_goes_on_to_the_bit(optimizer: str, saved_in: str):
    model = built(full_net)
    first = ScheduleFree(OPTIMIZERS[optimizer](model), momentum=0.8)
    train(model, first, range(4))
    getattr(first, saved_in)()
    file = io.BytesIO()
    torch.save((model.state_dict(), first.state_dict()), file)
    first.train()
    expected = train(model, first, range(4, 8))
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    other = built(full_net)
    other.load_state_dict(weights)
    second = ScheduleFree(OPTIMIZERS[optimizer](other), momentum=0.5)
    second.load_state_dict(state)
    second.train()
    assert train(other, second, range(4, 8)) == expected
    assert not differs(tensors(other), tensors(model))
    assert_same(second.state_dict()["param_groups"], first.state_dict()["param_groups"])


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_goes_on_to_the_bit(clone: Any):
    model = built(full_net)
    optimizer = ScheduleFree(OPTIMIZERS["adam"](model))
    train(model, optimizer, range(3))
    other, twin = clone((model, optimizer))
    assert train(model, optimizer, range(3, 6)) == train(other, twin, range(3, 6))
    assert not differs(tensors(model), tensors(other))


def test_evaluations_leave_no_trace_and_steps_between_them_are_refused():
    model, other = built(full_net), built(full_net)
    looking, plain = ScheduleFree(sgd(model)), ScheduleFree(sgd(other))
    looking.eval()  # nothing has been trained
    looking.train()
    for step in range(6):
        backward(model, step)
        looking.step()
        held = tensors(model)
        looking.eval()
        looking.eval()
        assert differs(tensors(model), held) == (step > 0)
        with looking.averaged():
            assert differs(tensors(model), held) == (step > 0)
        with pytest.raises(RuntimeError, match=r"call the optimizer's train\(\) before step"):
            looking.step()
        looking.train()
        looking.train()
    train(other, plain, range(6))
    assert not differs(tensors(model), tensors(other))


def test_a_parameter_is_averaged_over_the_steps_that_it_took():
    """Those without a gradient are not moved, whether they join late, rest or stop early."""
    takes = {"early": range(3), "late": range(5, 9), "rests": range(0, 9, 3), "always": range(9)}
    start = torch.arange(1.0, 5.0)
    parameters = {name: nn.Parameter(start.clone()) for name in [*takes, "never"]}
    optimizer = ScheduleFree(torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9), power=0)
    alone = {name: nn.Parameter(start.clone()) for name in takes}
    each = {
        name: ScheduleFree(torch.optim.SGD([alone[name]], lr=0.1, momentum=0.9), power=0)
        for name in takes
    }
    for step in range(9):
        for name, parameter in parameters.items():
            parameter.grad = None
            if step in takes.get(name, ()):
                parameter.grad = parameter.detach() + step
                alone[name].grad = alone[name].detach() + step
                each[name].step()
        held = {name: p.detach().clone() for name, p in parameters.items()}
        optimizer.step()
        for name, parameter in parameters.items():
            assert torch.equal(parameter, held[name]) == (step not in takes.get(name, ())), name
    for name in takes:
        assert torch.equal(parameters[name], alone[name]), name
        each[name].eval()
    with optimizer.averaged():
        for name in takes:
            assert torch.equal(parameters[name], alone[name]), name
        assert torch.equal(parameters["never"], start)


def test_lazy_modules_may_get_their_shape_after_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(2))
    optimizer = ScheduleFree(torch.optim.AdamW(model.parameters(), lr=0.01))
    losses = train(model.double(), optimizer, range(30))
    assert losses[-1] < losses[0]
    with optimizer.averaged():
        assert model(batch(0, model)).shape == (8, 2)


def test_a_group_that_is_added_later_is_averaged_too():
    model = built(plain_net)
    first, *rest = model.parameters()
    optimizer = ScheduleFree(torch.optim.SGD([first], lr=0.1, momentum=0.9), momentum=0.8)
    train(model, optimizer, range(2))
    held = tensors(model)[1:]
    optimizer.add_param_group({"params": rest, "lr": 0.02})
    assert (optimizer.param_groups[1]["momentum"], optimizer.param_groups[1]["lr"]) == (0.0, 0.02)
    train(model, optimizer, range(2, 5))
    assert differs(tensors(model)[1:], held)
    with optimizer.averaged():
        assert differs(tensors(model)[1:], held)


def test_batch_norm_is_calibrated_at_the_average():
    model = built(full_net)
    optimizer = ScheduleFree(sgd(model))
    train(model, optimizer, range(6))
    norm = model[1]  # type: ignore[index]
    held, inputs = norm.running_mean.clone(), [batch(step, model) for step in range(3)]
    with pytest.raises(RuntimeError, match=r"call the optimizer's eval\(\) before calibrate"):
        optimizer.calibrate(model, inputs)
    with optimizer.averaged(model, [(x, "label") for x in inputs]):
        expected = torch.stack([model[0](x).mean(dim=0) for x in inputs]).mean(dim=0)  # type: ignore[index]
        assert_near([norm.running_mean], [expected])
        assert model.training
    assert torch.equal(norm.running_mean, held)
    optimizer.eval()
    optimizer.calibrate(model, inputs, forward=lambda x: model(x))
    assert_near([norm.running_mean], [expected])


PACKAGE_S = ("AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree")


@pytest.mark.parametrize("name", PACKAGE_S)
def test_an_average_of_an_average_is_refused(name: str):
    optimizer = getattr(schedulefree, name)(plain_net().parameters(), lr=0.1)
    with pytest.raises(ValueError, match=f"{name} averages .* set averaging=None, or use the opt"):
        ScheduleFree(optimizer)
    once = sgd(plain_net())
    for again in (ScheduleFree(once), once):
        with pytest.raises(ValueError, match="averages the weights itself"):
            ScheduleFree(again)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.0}, r"momentum=1.0 must lie in \(0, 1\)"),
        ({"momentum": 0.0}, r"momentum=0.0 must lie in \(0, 1\)"),
        ({"power": -1}, "power=-1 must be finite and not negative"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        ScheduleFree(sgd(plain_net()), **settings)


def test_what_it_cannot_average_is_refused():
    model = plain_net()
    with pytest.raises(ValueError, match="LBFGS, which evaluates the loss several times"):
        ScheduleFree(torch.optim.LBFGS(model.parameters()))
    plain = sgd(model)
    optimizer = ScheduleFree(sgd(model))
    with pytest.raises(ValueError, match="the state is that of SGD without averaging"):
        optimizer.load_state_dict(plain.state_dict())
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert ray_autolrs.ScheduleFree is ScheduleFree
