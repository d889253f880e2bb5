from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from schedulefree import ScheduleFreeWrapper, SGDScheduleFree
from torch import Tensor, nn

from ray_autolrs.algorithm.schedules.segments import LinearWarmup, Segment
from ray_autolrs.algorithm.stages.messages import Apply, Probe
from ray_autolrs.training.averaging import NoAverage, RunningAverage, ScheduleFree, average_of
from ray_autolrs.training.random_streams import Stream, seed_everything
from ray_autolrs.training.replica import Replica
from ray_autolrs.training.worker import Worker
from tests.training.test_snapshot import OPTIMIZERS, two_groups
from tests.training.toy import (
    ToyTask,
    assert_same,
    full_net,
    make_worker,
    plain_net,
    small_config,
    state_of,
    train,
)

KINDS = ["schedule_free", "ema", "tail"]
INNER = {name: build for name, build in OPTIMIZERS.items() if name != "schedule_free"}


def plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def silent(done: int, loss: float) -> None:
    return


def values(replica: Replica) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in replica.module.parameters()]


def averages(worker: Worker) -> list[Tensor]:
    with worker.replica.average.swapped_in():
        return values(worker.replica)


def assert_near(left: list[Tensor], right: list[Tensor], close: float = 1e-12) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=close)


def differs(left: list[Tensor], right: list[Tensor]) -> bool:
    return any(not torch.equal(one, other) for one, other in zip(left, right, strict=True))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# What is averaged -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        # c_t for t = 1, 2, 3, ...
        ({"averaging": "ema", "ema_decay": 0.999}, [0.9, 9 / 11, 9 / 12, 9 / 13]),
        ({"averaging": "ema", "ema_decay": 0.15}, [0.9, 0.85, 0.85, 0.85]),
        ({"averaging": "tail", "averaging_tail": 1.0}, [1, 1 / 2, 1 / 3, 1 / 4]),
        ({"averaging": "tail", "averaging_tail": 0.5}, [1, 2 / 3, 2 / 4, 2 / 5]),
        ({"averaging": "tail", "averaging_tail": 0.25}, [1, 4 / 5, 4 / 6, 4 / 7]),
    ],
)
def test_running_averages_are_a_plain_loop_s(settings: dict[str, Any], weights: list[float]):
    worker = make_worker(ToyTask(plain_net), **settings)
    expected = values(worker.replica)
    assert not differs(averages(worker), expected)
    for step, weight in enumerate(weights):
        train(worker, step, 1, lr=0.2)
        newest = values(worker.replica)
        expected = [
            (1 - weight) * old + weight * new for old, new in zip(expected, newest, strict=True)
        ]
        assert_near(averages(worker), expected)


def test_a_tail_average_is_about_the_mean_of_the_last_part():
    """Of the numbers 1 to n, the last 30% have the mean 0.85 n."""
    number = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    average = RunningAverage(torch.optim.SGD([number]), ema_decay=None, tail=0.3)
    for step in range(1, 1001):
        number.data.fill_(float(step))
        average.update()
        if step in (100, 1000):
            with average.swapped_in():
                # Its weights fall gently where those of a mean end, so that it lies lower.
                assert number.item() / step == pytest.approx(0.77, abs=0.01)


def micro(worker: Worker, step: int) -> Any:
    batch = worker.batches.micro(step, 0)
    seed_everything(0, Stream.MODEL, step, 0)
    return batch


@pytest.mark.parametrize(("momentum", "power"), [(0.9, 0.0), (0.7, 2.0)])
def test_schedule_free_is_the_package_s_own_sgd(momentum: float, power: float):
    worker = make_worker(
        ToyTask(full_net),
        averaging="schedule_free",
        averaging_momentum=momentum,
        averaging_power=power,
    )
    reference = make_worker(ToyTask(full_net)).replica
    parameters = reference.module.parameters()
    optimizer = SGDScheduleFree(parameters, lr=1.0, momentum=momentum, r=power)
    optimizer.train()
    shape = LinearWarmup(first_step=0, steps=5)
    for step in range(12):
        lr = 0.03 * shape.factor(step) if step < 5 else 0.03
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
        averaging="schedule_free",
        averaging_momentum=0.8,
        averaging_power=1.0,
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


def sgd_with(**settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), lr=0.1, **settings)


@pytest.mark.parametrize(
    ("build", "factor", "off"),
    [
        (plain_sgd, 1.0, {"momentum": 0.0}),
        (sgd_with(momentum=0.9), 10.0, {"momentum": 0.0}),
        (sgd_with(momentum=0.5, nesterov=True), 2.0, {"momentum": 0.0, "nesterov": False}),
        (sgd_with(momentum=0.75, dampening=0.5), 2.0, {"momentum": 0.0, "dampening": 0.0}),
        (OPTIMIZERS["rmsprop"], 10.0, {"momentum": 0.0}),
        (OPTIMIZERS["adam"], 1.0, {"betas": (0.0, 0.999)}),
        (OPTIMIZERS["adagrad"], 1.0, {}),
    ],
)
def test_momentum_is_turned_off_and_made_up_for(build: Any, factor: float, off: dict[str, Any]):
    replica = make_worker(ToyTask(plain_net, build), averaging="schedule_free").replica
    (group,) = replica.optimizer.param_groups
    assert {name: group[name] for name in off} == off
    late = 10**5
    assert replica.average.lr_factors(late) == [pytest.approx(factor)]
    replica.set_lr(0.03, late)
    assert group["lr"] == pytest.approx(0.03 * factor)


def rmsprop_with(**settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-3, **settings)


@pytest.mark.parametrize("alpha", [0.5, 0.99])
def test_steps_of_rmsprop_are_as_long_as_its_lr_says(alpha: float):
    """Where gradients stay the same, each element moves by the LR, from the first step on."""
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 30.0]))
    average = ScheduleFree(
        torch.optim.RMSprop([parameter], lr=0.0, alpha=alpha, eps=1e-12), momentum=0.8
    )
    (weights,) = average.tensors
    before = weights.clone()
    for step in range(20):
        (group,) = average.optimizer.param_groups
        group["lr"] = 0.01 * average.lr_factors(step)[0]
        parameter.grad = torch.tensor([1e-3, -1.0, 50.0])
        average.optimizer.step()
        moved = (before - weights) / parameter.grad.sign()
        assert moved == pytest.approx(torch.full((3,), 0.01 * (step + 1)), rel=1e-4)


@pytest.mark.parametrize("kind", ["none", "ema", "tail"])
def test_only_schedule_free_changes_lrs(kind: str):
    replica = make_worker(ToyTask(plain_net, rmsprop_with(momentum=0.9)), averaging=kind).replica
    assert replica.average.lr_factors(0) == [1.0]


@pytest.mark.parametrize("kind", ["none", "ema", "tail"])
def test_other_averages_leave_the_optimizer_alone(kind: str):
    averaged = make_worker(ToyTask(), averaging=kind)
    plain = make_worker(ToyTask(), averaging="none")
    assert train(averaged, 0, 8) == train(plain, 0, 8)
    assert not differs(values(averaged.replica), values(plain.replica))


def test_the_settings_choose_the_average():
    classes = {"none": NoAverage, "ema": RunningAverage, "tail": RunningAverage}
    for name, wanted in (classes | {"schedule_free": ScheduleFree}).items():
        optimizer = plain_sgd(plain_net())
        assert (
            type(average_of(optimizer, config=small_config(averaging=name), global_batch_size=8))
            is wanted
        )
    worker = make_worker(ToyTask(), averaging="schedule_free", averaging_momentum=0.5)
    strong = make_worker(ToyTask(), averaging="schedule_free")
    assert train(worker, 0, 5) != train(strong, 0, 5)


# Models and optimizers of every kind ------------------------------------------------------


@pytest.mark.parametrize("optimizer", INNER)
def test_restoring_leaves_no_trace_of_training(kind: str, optimizer: str):
    worker = make_worker(ToyTask(full_net, OPTIMIZERS[optimizer]), averaging=kind)
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
def test_a_saved_state_continues_in_a_fresh_worker(kind: str, optimizer: str):
    task = ToyTask(full_net, OPTIMIZERS[optimizer], augment=True)
    worker = make_worker(task, averaging=kind)
    train(worker, 0, 4)
    worker.take_snapshot(4)
    file = io.BytesIO()
    torch.save(worker.snapshot.state_dict(), file)
    expected, at = train(worker, 4, 6), averages(worker)

    file.seek(0)
    fresh = make_worker(task, averaging=kind)
    fresh.snapshot.load_state_dict(torch.load(file, weights_only=False))
    for _ in range(2):  # what was loaded is not what trains
        assert fresh.snapshot.restore(fresh.replica) == 4
        assert train(fresh, 4, 6) == expected
        assert not differs(averages(fresh), at)
    assert_same(state_of(fresh.replica), state_of(worker.replica))


def test_the_snapshot_of_another_average_is_refused(kind: str):
    plain, averaged = make_worker(ToyTask()), make_worker(ToyTask(), averaging=kind)
    averaged.snapshot.load_state_dict(plain.snapshot.state_dict())
    with pytest.raises(ValueError, match="another average of the weights: 6 tensors, and 0"):
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
def test_parameters_of_every_kind_are_averaged(kind: str, build: Any):
    worker = make_worker(ToyTask(Odd, build), averaging=kind)
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


def test_a_group_whose_lr_is_zero_stays(kind: str):
    worker = make_worker(ToyTask(plain_net, rest_frozen), averaging=kind)
    first, *rest = values(worker.replica)
    train(worker, 0, 5)
    first_now, *rest_now = averages(worker)
    assert not torch.equal(first_now, first)
    assert not differs(rest_now, rest)


@pytest.mark.parametrize("kind", ["schedule_free"])
def test_a_step_that_overflows_is_skipped(kind: str):
    worker = make_worker(
        ToyTask(lambda: plain_net().float(), plain_sgd, precision="fp16"), averaging=kind
    )
    x, y = worker.batches.micro(0, 0)
    losses = torch.zeros(1, dtype=torch.float64)
    worker.replica.take_step(0, [[x.float(), y]], range(1), 0.1, losses)
    before, at = values(worker.replica), averages(worker)
    worker.replica.take_step(1, [[1e9 * x.float(), y]], range(1), 0.1, losses)
    assert not differs(values(worker.replica), before)
    assert not differs(averages(worker), at)


# Looking at the average -------------------------------------------------------------------


class LookedError(Exception):
    pass


def test_a_look_at_the_average_leaves_no_trace(kind: str):
    worker = make_worker(ToyTask(), averaging=kind)
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


def test_evaluations_between_steps_do_not_disturb_the_training(kind: str):
    watched = make_worker(ToyTask(augment=True), averaging=kind)
    left_alone = make_worker(ToyTask(augment=True), averaging=kind)
    losses: list[float] = []
    for step in range(8):
        losses += train(watched, step, 1)
        with watched.averaged(step + 1):
            watched.evaluation.run(watched.replica, watched.group, with_metrics=True)
    watched_last = train(watched, 8, 1)
    assert losses + watched_last == train(left_alone, 0, 9)
    assert_same(state_of(watched.replica), state_of(left_alone.replica))


def norm_of(worker: Worker) -> nn.BatchNorm1d:
    norm = worker.replica.module[1]  # type: ignore[index]
    assert isinstance(norm, nn.BatchNorm1d)
    return norm


def test_statistics_at_the_average_are_the_mean_over_the_latest_batches(kind: str):
    task = ToyTask(full_net, micro_batch_size=8)
    worker = make_worker(task, averaging=kind, calibration_batches=3)
    norm = norm_of(worker)
    norm.momentum = 0.3
    train(worker, 0, 7)
    kept = [buffer.clone() for buffer in norm.buffers()]
    means, variances = [], []
    with worker.replica.average.swapped_in(), torch.no_grad():
        for step in (4, 5, 6):
            x, _ = worker.batches.micro(step, 0)
            hidden = worker.replica.module[0](x)  # type: ignore[index]
            means.append(hidden.mean(dim=0))
            variances.append(hidden.var(dim=0))
    with worker.averaged(7):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert_near([norm.running_mean], [torch.stack(means).mean(dim=0)])
        assert_near([norm.running_var], [torch.stack(variances).mean(dim=0)])
        assert norm.momentum == 0.3
        assert not worker.replica.module[2].training  # type: ignore[index]
    assert norm.momentum == 0.3
    assert not differs(list(norm.buffers()), kept)


def test_fewer_steps_than_calibration_batches_are_enough(kind: str):
    worker = make_worker(ToyTask(), averaging=kind, calibration_batches=10)
    train(worker, 0, 2)
    with worker.averaged(2):
        assert norm_of(worker).num_batches_tracked == 2


def test_statistics_are_restored_after_an_exception(kind: str):
    worker = make_worker(ToyTask(), averaging=kind)
    train(worker, 0, 3)
    before = state_of(worker.replica)["tensors"]
    with pytest.raises(LookedError), worker.averaged(3):
        raise LookedError
    assert_same(state_of(worker.replica)["tensors"], before)

    def batches() -> Any:
        yield worker.batches.micro(0, 0)
        raise LookedError

    with pytest.raises(LookedError), worker.replica.averaged(batches()):
        pass
    assert_same(state_of(worker.replica)["tensors"], before)
    assert norm_of(worker).momentum == 0.1


def test_without_an_average_nothing_is_read():
    worker = make_worker(ToyTask(), averaging="none")
    train(worker, 0, 3)
    before = state_of(worker.replica)

    def batches() -> Any:
        raise LookedError
        yield

    with worker.replica.averaged(batches()):
        assert_same(state_of(worker.replica), before)


def synced_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.SyncBatchNorm(8), nn.Linear(8, 3)).double()


def test_statistics_are_taken_without_the_other_workers(kind: str, monkeypatch: Any):
    """Rank 0 takes them alone: a layer that waits for the others would wait for ever."""
    worker = make_worker(ToyTask(synced_net), averaging=kind)
    train(worker, 0, 3)

    def wait(*_: Any) -> None:
        raise AssertionError("waits for the other workers")

    monkeypatch.setattr(nn.SyncBatchNorm, "forward", wait)
    with worker.averaged(3):
        assert worker.replica.module[1].num_batches_tracked == 3  # type: ignore[index]
    monkeypatch.undo()
    with worker.averaged(3):
        means = worker.evaluation.run(worker.replica, worker.group, with_metrics=False)
    assert means["loss"] > 0


# In probes and stages ---------------------------------------------------------------------


def test_probes_and_stages_are_judged_at_the_average(kind: str):
    worker = make_worker(ToyTask(), averaging=kind, validation_samples=10)
    probe = worker.run_probe(Probe(1, 0, Segment(0, 11, 0.1), evals=1), silent)
    with worker.averaged(12):
        means = worker.probe_evaluation.run(worker.replica, worker.group, with_metrics=False)
    assert probe.losses == (means["loss"],)
    bare = worker.probe_evaluation.run(worker.replica, worker.group, with_metrics=False)
    assert bare["loss"] != means["loss"]

    done = worker.run_apply(Apply(1, Segment(0, 19, 0.1)), silent)
    with worker.averaged(20):
        full = worker.evaluation.run(worker.replica, worker.group, with_metrics=True)
    assert {name: value for _, name, value in done.evaluations} == full


@pytest.mark.parametrize(
    ("net", "settings", "steps"),
    [
        # 10 samples forward are a third of 10/16 of a step; so are 4 batches of 8 samples.
        (full_net, {"averaging": "none"}, 10 / 48),
        (plain_net, {"averaging": "ema"}, 10 / 48),
        (full_net, {"averaging": "ema"}, (10 + 32) / 48),
        (full_net, {"averaging": "schedule_free"}, (10 + 32) / 48),
    ],
)
def test_what_a_look_costs_is_counted_in_steps(net: Any, settings: dict[str, Any], steps: float):
    worker = make_worker(
        ToyTask(net, micro_batch_size=8), validation_samples=10, calibration_batches=4, **settings
    )
    one = worker.run_probe(Probe(1, 0, Segment(0, 11, 0.1), evals=1), silent)
    three = worker.run_probe(Probe(1, 0, Segment(0, 11, 0.1), evals=3), silent)
    none = worker.run_probe(Probe(1, 0, Segment(0, 11, 0.1)), silent)
    assert one.forward_steps == pytest.approx(steps)
    assert three.forward_steps == pytest.approx(3 * steps)
    assert none.forward_steps == 0
