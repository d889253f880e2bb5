from __future__ import annotations

import io
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ray_autolrs.training.snapshot import Snapshot
from tests.training.toy import (
    ToyTask,
    assert_same,
    full_net,
    make_worker,
    plain_net,
    sgd,
    state_of,
    train,
)

Build = Callable[[nn.Module], torch.optim.Optimizer]


def schedule_free(model: nn.Module) -> torch.optim.Optimizer:
    schedulefree = pytest.importorskip("schedulefree")
    optimizer: Any = schedulefree.AdamWScheduleFree(model.parameters(), lr=0.01, warmup_steps=5)
    optimizer.train()
    return optimizer


def two_groups(model: nn.Module) -> torch.optim.Optimizer:
    first, *rest = model.parameters()
    groups: list[dict[str, Any]] = [{"params": [first]}, {"params": rest, "lr": 0.03}]
    return torch.optim.AdamW(groups, lr=0.01)


OPTIMIZERS: dict[str, Build] = {
    "sgd_momentum": sgd,
    "adam": lambda model: torch.optim.Adam(model.parameters()),
    "adam_foreach": lambda model: torch.optim.Adam(model.parameters(), foreach=True),
    "adam_fused": lambda model: torch.optim.Adam(model.parameters(), fused=True),
    "adamw_amsgrad": lambda model: torch.optim.AdamW(model.parameters(), amsgrad=True),
    "adamw_groups": two_groups,
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), momentum=0.9, centered=True),
    "adagrad": lambda model: torch.optim.Adagrad(model.parameters()),
    "nadam": lambda model: torch.optim.NAdam(model.parameters()),
    "asgd": lambda model: torch.optim.ASGD(model.parameters()),
    "schedule_free": schedule_free,
}


@pytest.fixture(params=OPTIMIZERS)
def optimizer(request: pytest.FixtureRequest) -> Build:
    return OPTIMIZERS[request.param]


def storages(worker: Any) -> list[int]:
    """Return where parameters, buffers and optimizer state lie in memory."""
    tensors = [*worker.replica.module.parameters(), *worker.replica.module.buffers()]
    for state in worker.replica.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return [tensor.data_ptr() for tensor in tensors]


def test_restoring_leaves_no_trace_of_training(optimizer: Build):
    worker = make_worker(ToyTask(full_net, optimizer, augment=True))
    train(worker, 0, 4)
    worker.take_snapshot(4)
    before, places = state_of(worker.replica), storages(worker)
    losses = []
    for _ in range(2):
        losses.append(train(worker, 4, 7, lr=0.02))
        assert not torch.equal(
            state_of(worker.replica)["tensors"]["0.weight"], before["tensors"]["0.weight"]
        )
        assert worker.snapshot.restore(worker.replica) == 4
        assert_same(state_of(worker.replica), before)
        assert storages(worker) == places
    worker.snapshot.restore(worker.replica)  # twice in a row
    assert_same(state_of(worker.replica), before)
    assert losses[0] == losses[1]


def test_restoring_the_start_empties_the_optimizer(optimizer: Build):
    worker = make_worker(ToyTask(full_net, optimizer))
    before = state_of(worker.replica)
    one = train(worker, 0, 5)
    worker.snapshot.restore(worker.replica)
    assert_same(state_of(worker.replica), before)
    assert train(worker, 0, 5) == one
    fresh = make_worker(ToyTask(full_net, optimizer))
    assert train(fresh, 0, 5) == one
    assert_same(state_of(fresh.replica), state_of(worker.replica))


def test_a_saved_state_continues_in_a_fresh_process_s_replica(optimizer: Build):
    task = ToyTask(full_net, optimizer, augment=True)
    worker = make_worker(task)
    train(worker, 0, 4)
    worker.take_snapshot(4)
    file = io.BytesIO()
    torch.save(worker.snapshot.state_dict(), file)
    expected = train(worker, 4, 6)

    file.seek(0)
    fresh = make_worker(task)
    fresh.snapshot.load_state_dict(torch.load(file, weights_only=True))
    assert fresh.snapshot.restore(fresh.replica) == 4
    assert train(fresh, 4, 6) == expected
    assert_same(state_of(fresh.replica), state_of(worker.replica))
    # What was loaded is not what trains.
    fresh.snapshot.restore(fresh.replica)
    assert train(fresh, 4, 6) == expected


def test_a_probe_s_lr_and_the_gradients_are_gone():
    worker = make_worker(ToyTask(full_net, two_groups))
    train(worker, 0, 3, lr=0.9)
    worker.snapshot.restore(worker.replica)
    assert [group["lr"] for group in worker.replica.optimizer.param_groups] == [0.01, 0.03]
    assert all(parameter.grad is None for parameter in worker.replica.module.parameters())


def test_a_second_capture_reuses_the_memory_of_the_first():
    worker = make_worker(ToyTask(full_net, OPTIMIZERS["adam"]))
    train(worker, 0, 2)
    worker.take_snapshot(2)
    state = worker.snapshot.state_dict()
    places = [tensor.data_ptr() for tensor in state["tensors"].values()]
    moments = [entry["exp_avg"].data_ptr() for entry in state["optimizer"]["state"]]
    train(worker, 2, 2)
    before = state_of(worker.replica)
    worker.take_snapshot(4)
    state = worker.snapshot.state_dict()
    assert [tensor.data_ptr() for tensor in state["tensors"].values()] == places
    assert [entry["exp_avg"].data_ptr() for entry in state["optimizer"]["state"]] == moments
    train(worker, 4, 2)
    worker.snapshot.restore(worker.replica)
    assert_same(state_of(worker.replica), before)


def test_random_states_are_restored():
    worker = make_worker(ToyTask())

    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), np.random.randn(), torch.rand(1).item()]

    np.random.randn()  # NumPy holds back the second of a pair of normal numbers
    worker.take_snapshot(0)
    first = draw()
    worker.snapshot.restore(worker.replica)
    assert draw() == first


def test_the_gradient_scaler_is_restored():
    worker = make_worker(ToyTask(lambda: plain_net().float(), precision="fp16"))
    scaler = worker.replica.scaler
    batch = [[x.float(), y] for x, y in [worker.engine.batches.micro(0, 0)]]
    losses = torch.zeros(1, dtype=torch.float64)
    worker.replica.take_step(0, batch, range(1), 0.1, losses)
    worker.take_snapshot(1)
    before = scaler.state_dict()
    assert before["_growth_tracker"] == 1
    worker.replica.take_step(1, batch, range(1), 0.1, losses)
    overflow = [[1e9 * batch[0][0], batch[0][1]]]
    worker.replica.take_step(2, overflow, range(1), 0.1, losses)
    assert scaler.state_dict()["scale"] == before["scale"] / 2
    worker.snapshot.restore(worker.replica)
    assert scaler.state_dict() == before


class Odd(nn.Module):
    """Keeps state in every place that PyTorch offers."""

    extra: int
    average: Tensor | None
    counted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = plain_net()
        self.tied = nn.Linear(8, 3, dtype=torch.float64)
        self.tied.weight = self.net[2].weight  # type: ignore[index]
        self.register_buffer("counted", torch.zeros(1), persistent=False)
        self.register_buffer("average", None)
        self.extra = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.extra += 1
            self.counted = self.counted + 1  # a new tensor in its place
            mean = x.mean()
            self.average = mean if self.average is None else self.average.lerp(mean, 0.5)
        result: Tensor = self.tied(self.net[:2](x))  # type: ignore[index]
        return result

    def get_extra_state(self) -> dict[str, int]:
        return {"extra": self.extra}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.extra = state["extra"]


def test_buffers_of_every_kind_extra_state_and_tied_weights_are_restored():
    worker = make_worker(ToyTask(Odd))
    module = worker.replica.module
    assert isinstance(module, Odd)
    start = state_of(worker.replica)
    first = train(worker, 0, 3)
    assert (module.extra, module.counted.item()) == (3, 3)
    worker.snapshot.restore(worker.replica)
    assert (module.extra, module.counted.item(), module.average) == (0, 0, None)
    assert_same(state_of(worker.replica), start)
    assert train(worker, 0, 3) == first

    worker.take_snapshot(3)
    assert "tied.weight" not in state_of(worker.replica)["tensors"]  # held once
    held = state_of(worker.replica)
    train(worker, 3, 2)
    module.average = None
    worker.snapshot.restore(worker.replica)
    assert_same(state_of(worker.replica), held)
    assert module.tied.weight is module.net[2].weight  # type: ignore[index]

    fresh = make_worker(ToyTask(Odd))
    fresh.snapshot.load_state_dict(worker.snapshot.state_dict())
    fresh.snapshot.restore(fresh.replica)
    assert train(fresh, 3, 2) == train(worker, 3, 2)


class Counting(torch.optim.SGD):
    """Keeps state beside that of its parameters."""

    def step(self, closure: Any = None) -> Any:
        state: dict[Any, Any] = self.state
        state["steps"] = state.get("steps", 0) + 1
        self.param_groups[0]["added"] = state["steps"]
        return super().step(closure)


def test_what_an_optimizer_keeps_beside_its_parameters_is_restored():
    worker = make_worker(ToyTask(plain_net, lambda model: Counting(model.parameters(), lr=0.1)))
    state: dict[Any, Any] = worker.replica.optimizer.state
    train(worker, 0, 2)
    assert state["steps"] == 2
    worker.snapshot.restore(worker.replica)
    assert "steps" not in state
    assert "added" not in worker.replica.optimizer.param_groups[0]
    train(worker, 0, 3)
    worker.take_snapshot(3)
    train(worker, 3, 3)
    worker.snapshot.restore(worker.replica)
    assert state["steps"] == worker.replica.optimizer.param_groups[0]["added"] == 3


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_model_is_restored():
    def compiled() -> nn.Module:
        return torch.compile(full_net(), backend="aot_eager")  # type: ignore[return-value]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        worker = make_worker(ToyTask(compiled))
        train(worker, 0, 2)
        worker.take_snapshot(2)
        before = state_of(worker.replica)
        losses = train(worker, 2, 3)
        worker.snapshot.restore(worker.replica)
        assert_same(state_of(worker.replica), before)
        assert train(worker, 2, 3) == losses


def other_width() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()


@pytest.mark.parametrize(
    ("net", "optimizer", "message"),
    [
        (other_width, sgd, r"another model: '0.weight' is torch.float64 of shape \(9, 6\), and"),
        (lambda: plain_net().float(), sgd, "another model: '0.weight' is torch.float32"),
        (full_net, sgd, "another model: only one of them has '1."),
        (plain_net, two_groups, "another optimizer: 2 parameter groups of 4 parameters, and 1"),
    ],
)
def test_the_snapshot_of_another_task_is_refused(net: Any, optimizer: Build, message: str):
    held = make_worker(ToyTask(plain_net)).snapshot.state_dict()
    worker = make_worker(ToyTask(net, optimizer))
    snapshot = Snapshot()
    snapshot.load_state_dict(held)
    with pytest.raises(ValueError, match=message):
        snapshot.restore(worker.replica)


class Observed(nn.Module):
    """Keeps the range of its weights, in buffers that get their shape in the first pass."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = plain_net()
        self.register_buffer("seen", torch.empty(0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        lowest = self.net[0].weight.detach().amin(dim=1)
        if self.seen.numel():
            lowest = torch.minimum(lowest, self.seen)
        self.seen.resize_(lowest.shape).copy_(lowest)
        out: Tensor = self.net(x)
        return out


@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_a_buffer_that_changes_its_shape_is_restored(micro_batch_size: int | None):
    worker = make_worker(ToyTask(Observed, micro_batch_size=micro_batch_size))
    before = state_of(worker.replica)
    worker.check_first_loss()
    assert_same(state_of(worker.replica), before)
    losses = train(worker, 0, 5)
    after = state_of(worker.replica)
    assert after["tensors"]["seen"].shape == (8,)
    assert worker.snapshot.restore(worker.replica) == 0
    assert_same(state_of(worker.replica), before)
    assert train(worker, 0, 5) == losses
    assert_same(state_of(worker.replica), after)


def test_a_parameter_of_another_shape_is_refused():
    worker, other = make_worker(ToyTask(Observed)), make_worker(ToyTask(Observed))
    net: Any = other.replica.module.net
    net[0] = nn.Linear(6, 9).double()
    with pytest.raises(ValueError, match=r"another model: 'net.0.weight' .* shape \(9, 6\)"):
        worker.snapshot.restore(other.replica)
