from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.replica import Replica
from tests.training.toy import CPU, ToyTask, full_net, plain_net


def make_replica(task: ToyTask, seed: int = 0) -> Replica:
    return Replica(task, Solo(), CPU, seed)


def take_steps(task: ToyTask, steps: int, lr: float = 0.1) -> tuple[Replica, Tensor]:
    """Return the trained replica, and the losses, (steps, micro-batches)."""
    replica = make_replica(task)
    batches = StepBatches(task, micro_batch_size=task.resolved_micro_batch_size(1), seed=0)
    micros = range(batches.micro_batches)
    losses = torch.zeros(steps, len(micros), dtype=torch.float64)
    for step, batch in enumerate(batches.stream(0, steps, micros)):
        replica.take_step(step, batch, micros, lr, losses[step])
    return replica, losses


def parameters(replica: Replica) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in replica.module.parameters()])


def groups(model: nn.Module, lr: Any = 0.1) -> torch.optim.Optimizer:
    head, tail = list(model.parameters())[:2], list(model.parameters())[2:]
    return torch.optim.SGD([{"params": head, "lr": lr}, {"params": tail, "lr": lr * 3}], lr=0.5)


def test_parameter_groups_keep_their_ratio():
    replica = make_replica(ToyTask(plain_net, groups))
    for lr in (0.7, 1e-3, 0.1):
        replica.set_lr(lr)
        assert replica.optimizer.param_groups[0]["lr"] == lr
        assert replica.optimizer.param_groups[1]["lr"] == pytest.approx(3 * lr, rel=1e-15)


def test_a_tensor_lr_is_set_in_place():
    # Captured graphs and fused optimizers read the LR from a tensor's memory.
    replica = make_replica(ToyTask(plain_net, lambda model: groups(model, torch.tensor(0.1))))
    held = [group["lr"] for group in replica.optimizer.param_groups]
    replica.set_lr(0.5)
    assert [group["lr"] for group in replica.optimizer.param_groups] == held
    assert all(
        group["lr"] is lr for group, lr in zip(replica.optimizer.param_groups, held, strict=True)
    )
    assert held[0].item() == 0.5
    assert held[1].item() == pytest.approx(1.5, rel=1e-6)


def test_the_same_seed_builds_the_same_model():
    one, same, other = (make_replica(ToyTask(), seed) for seed in (0, 0, 1))
    assert torch.equal(parameters(one), parameters(same))
    assert not torch.equal(parameters(one), parameters(other))


@pytest.mark.parametrize("clip", [None, 0.1])
def test_micro_batches_add_up_to_one_large_batch(clip: float | None):
    whole, whole_losses = take_steps(ToyTask(plain_net, max_grad_norm=clip), 10)
    cut, losses = take_steps(ToyTask(plain_net, max_grad_norm=clip, micro_batch_size=4), 10)
    assert losses.shape == (10, 4)
    torch.testing.assert_close(losses.mean(dim=1), whole_losses[:, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(parameters(cut), parameters(whole), rtol=0, atol=1e-12)


def test_a_step_is_plain_pytorch():
    task = ToyTask(plain_net, max_grad_norm=0.05)
    replica, losses = take_steps(task, 5, lr=0.3)
    torch.manual_seed(0)
    plain = make_replica(task).module
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.3, momentum=0.9)
    batches = StepBatches(task, micro_batch_size=16, seed=0)
    for step in range(5):
        loss = task.loss(plain, batches.micro(step, 0))
        assert loss.item() == losses[step, 0].item()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), 0.05)
        assert norm > 0.05  # or the test shows nothing
        optimizer.step()
    assert torch.equal(
        parameters(replica), torch.cat([p.detach().flatten() for p in plain.parameters()])
    )


def test_a_parameter_that_is_not_trained_does_not_disturb_clipping():
    def head_only(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(model.parameters())[2:], lr=0.1)

    replica, _ = take_steps(ToyTask(plain_net, head_only), 1)
    once = [p.grad.clone() for p in replica.module.parameters() if p.grad is not None]
    task = ToyTask(plain_net, head_only)
    batch = [StepBatches(task, micro_batch_size=16, seed=0).micro(0, 0)]
    replica = make_replica(task)
    for _ in range(3):
        replica.take_step(0, batch, range(1), 0.0, torch.zeros(1, dtype=torch.float64))
    thrice = [p.grad for p in replica.module.parameters() if p.grad is not None]
    assert len(once) == len(thrice) == 4
    assert all(torch.equal(one, three) for one, three in zip(once, thrice, strict=True))


def test_dropout_depends_on_the_address_alone():
    task = ToyTask(full_net, micro_batch_size=4)
    replica = make_replica(task)
    batch = StepBatches(task, micro_batch_size=4, seed=0).micro(0, 0)

    def loss(step: int, micro: int) -> float:
        return replica.first_loss(step, micro, batch).item()

    first = loss(3, 1)
    torch.manual_seed(5)
    torch.rand(100)
    assert loss(3, 1) == first
    # Masks of 4 x 8 entries: some of these places differ in every run of this test, it is seeded.
    assert len({loss(step, micro) for step in range(3) for micro in range(3)}) == 9
    assert make_replica(task, seed=0).first_loss(3, 1, batch).item() == first


def test_running_statistics_do_not_depend_on_how_many_micro_batches_a_worker_has():
    whole, _ = take_steps(ToyTask(full_net, global_batch_size=4, samples=64), 1)
    cut, _ = take_steps(ToyTask(full_net, micro_batch_size=4, samples=64), 1)
    # One update a step, by the first micro-batch.
    assert_equal_buffers(whole.module, cut.module)


def assert_equal_buffers(one: nn.Module, other: nn.Module) -> None:
    for (name, buffer), twin in zip(one.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(buffer, twin), name


class Watch(nn.Module):
    """Notes what the last layer computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)
        self.dtypes: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x.float())
        self.dtypes.append(result.dtype)
        return result


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_precision_sets_the_dtype_of_the_forward_pass(precision: str, dtype: torch.dtype):
    replica, losses = take_steps(ToyTask(Watch, precision=precision), 30)
    assert isinstance(replica.module, Watch)
    assert set(replica.module.dtypes) == {dtype}
    assert replica.module.layer.weight.dtype == torch.float32
    assert losses[-5:].mean() < losses[:5].mean()
    assert replica.scaler.is_enabled() == (precision == "fp16")


def test_the_gradient_scale_cancels_out():
    scaled, losses = take_steps(ToyTask(Watch, precision="fp16", max_grad_norm=0.5), 5)
    exact, exact_losses = take_steps(ToyTask(Watch, max_grad_norm=0.5), 5)
    torch.testing.assert_close(losses, exact_losses, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(parameters(scaled), parameters(exact), rtol=1e-2, atol=2e-3)


def test_an_overflow_skips_the_step_and_shrinks_the_scale_and_calm_lets_it_grow():
    task = ToyTask(Watch, precision="fp16")
    replica = make_replica(task)
    replica.scaler.load_state_dict(replica.scaler.state_dict() | {"growth_interval": 2})
    batch = StepBatches(task, micro_batch_size=16, seed=0).micro(0, 0)
    losses = torch.zeros(1, dtype=torch.float64)

    def step(scale: float) -> None:
        replica.take_step(0, [[batch[0] * scale, batch[1]]], range(1), 0.1, losses)

    step(1.0)
    before, scale = parameters(replica), replica.scaler.get_scale()
    step(1e9)  # over float16's 65504
    assert not math.isfinite(losses.item())
    assert torch.equal(parameters(replica), before)
    assert replica.scaler.get_scale() == scale / 2
    step(1.0)
    step(1.0)
    assert not torch.equal(parameters(replica), before)
    assert replica.scaler.get_scale() == scale


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"ToyTask.precision='fp8' must be one of .*'bf16'"):
        make_replica(ToyTask(precision="fp8"))


@pytest.mark.parametrize("lr", [0.0, math.nan])
def test_a_first_lr_without_a_ratio_is_refused(lr: float):
    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        result = torch.optim.SGD(model.parameters(), lr=0.1)
        result.param_groups[0]["lr"] = lr
        return result

    with pytest.raises(ValueError, match=r"first parameter group has lr=.*must be positive"):
        make_replica(ToyTask(plain_net, optimizer))


def test_an_optimizer_that_no_snapshot_could_hold_is_refused():
    def stray(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD([*model.parameters(), nn.Parameter(torch.ones(1))], lr=0.1)

    with pytest.raises(ValueError, match="parameter group 0 has a parameter that the model lacks"):
        make_replica(ToyTask(plain_net, stray))
    with pytest.raises(ValueError, match="LBFGS"):
        make_replica(ToyTask(plain_net, lambda model: torch.optim.LBFGS(model.parameters())))


@pytest.mark.parametrize("layer", [nn.LazyLinear(3), nn.LazyBatchNorm1d(affine=False)], ids=repr)
def test_a_lazy_module_is_refused_before_a_snapshot_could_miss_it(layer: nn.Module):
    def net() -> nn.Module:
        return nn.Sequential(plain_net(), layer)

    with pytest.raises(ValueError, match=r"the model's '1\..* run a batch through"):
        make_replica(ToyTask(net))
