"""What a run holds, and where: on a CPU the device is host memory too, so places are told apart."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Probe
from ray_autolrs.training import memory, snapshot
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree
from ray_autolrs.training.memory import Room, belongs_on_host, copies_kept, planned_bytes
from tests.training.toy import ToyTask, assert_same, make_worker, plain_net, silent, train


def _same(room: Room, device: torch.device) -> Room:
    return room


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def state_keys(optimizer: torch.optim.Optimizer) -> set[str]:
    return {key for own in optimizer.state.values() for key in own}


def test_a_copy_goes_where_it_leaves_room_for_steps():
    room = Room(total=100, free=60, step=20)
    # A step took 20, and a tenth stays free: 30 of 60.
    assert room.holds(30, has_stepped=True)
    assert not room.holds(31, has_stepped=True)
    # Before the first step half of the device stays free.
    assert room.holds(10, has_stepped=False)
    assert not room.holds(11, has_stepped=False)


@pytest.mark.parametrize(("place", "on_host"), [("auto", False), ("device", False), ("host", True)])
def test_the_task_says_where_copies_lie(monkeypatch, place: str, on_host: bool):
    worker = make_worker(ToyTask(plain_net, snapshot_place=place))
    assert belongs_on_host(worker.replica, lambda: 0) is on_host
    told: list[torch.Tensor] = []

    def to_host(tensor: torch.Tensor, reuse: object) -> torch.Tensor:
        told.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(snapshot, "to_host", to_host)
    worker.take_snapshot(0)
    assert bool(told) is on_host


def test_a_gpu_is_measured_where_the_place_is_left_open(monkeypatch):
    worker = make_worker(ToyTask(plain_net, adamw))
    worker.replica.device = torch.device("cuda", 0)
    needed = memory.state_bytes(worker.replica)
    assert needed == sum(p.nbytes for p in worker.replica.module.parameters())
    for free, held, on_host in [
        (needed + 50, 0, False),
        (needed + 49, 0, True),
        (50, needed, False),
    ]:
        room, held_bytes = Room(100, free, 0), functools.partial(int, held)
        monkeypatch.setattr(memory, "room_on", functools.partial(_same, room))
        assert belongs_on_host(worker.replica, held_bytes) is on_host


def test_a_probe_from_a_copy_on_the_host_has_the_same_bits():
    probe = Probe(1, 0, Segment(0, 9, 0.05), evals=2)
    found = []
    for place in ("device", "host"):
        task = ToyTask(plain_net, adamw, snapshot_place=place)
        worker = make_worker(task, ScheduleFreeAverage())
        found.append([worker.run_probe(probe, silent).training_losses for _ in range(2)])
    assert found[0] == found[1]
    assert found[0][0] == found[0][1]


@pytest.mark.parametrize(
    ("build", "kept"),
    [
        (lambda ps: torch.optim.AdamW(ps, lr=0.1), {"step", "exp_avg_sq", "z", "weight_sum"}),
        (lambda ps: torch.optim.Adam(ps, lr=0.1), {"step", "exp_avg_sq", "z", "weight_sum"}),
        # Their steps make another gradient first.
        (
            lambda ps: torch.optim.Adam(ps, lr=0.1, weight_decay=0.1),
            {"step", "exp_avg", "exp_avg_sq", "z", "weight_sum"},
        ),
        (
            lambda ps: torch.optim.AdamW(ps, lr=0.1, maximize=True),
            {"step", "exp_avg", "exp_avg_sq", "z", "weight_sum"},
        ),
    ],
)
@pytest.mark.parametrize("foreach", [False, True])
def test_a_mean_of_gradients_that_nothing_reads_is_not_kept(build, kept, foreach: bool):
    # The bits of the steps are compared with the package's wrapper, which keeps the mean.
    parameter = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
    optimizer = ScheduleFree(build([parameter]), momentum=0.8)
    optimizer.param_groups[0]["foreach"] = foreach
    for _ in range(3):
        parameter.grad = parameter.detach().cos()
        gradient = parameter.grad.clone()
        optimizer.step()
        assert torch.equal(parameter.grad, gradient)
        assert state_keys(optimizer) == kept


def test_a_heavy_ball_that_is_turned_off_is_not_kept():
    parameter = nn.Parameter(torch.ones(3))
    base = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones(3)
    base.step()
    assert state_keys(base) == {"momentum_buffer"}
    ScheduleFree(base)
    assert state_keys(base) == set()


def test_the_average_is_looked_at_in_the_gradients_memory():
    worker = make_worker(ToyTask(plain_net, adamw), ScheduleFreeAverage())
    train(worker, 0, 3)
    before = [parameter.detach().clone() for parameter in worker.replica.module.parameters()]
    with worker.averaged(3):
        assert all(parameter.grad is None for parameter in worker.replica.module.parameters())
    assert_same(before, [parameter.detach() for parameter in worker.replica.module.parameters()])


@pytest.mark.parametrize(
    ("build", "averaging", "copies"),
    [(adamw, None, 2), (adamw, ScheduleFreeAverage(), 2), (None, ScheduleFreeAverage(), 1)],
)
def test_what_is_said_to_be_held_is_held(build, averaging, copies: int):
    task = ToyTask(plain_net, build) if build else ToyTask(plain_net)
    worker = make_worker(task, averaging)
    planned = planned_bytes(worker.replica)
    model = planned["model"]
    assert planned["gradients"] == model
    assert planned["optimizer and average"] == copies * model
    assert planned["snapshot"] == (1 + copies) * model
    train(worker, 0, 1)
    held = memory.state_bytes(worker.replica)
    # Step counts and the like are a few bytes a tensor.
    assert planned["snapshot"] <= held <= planned["snapshot"] + 100
    assert f"snapshot {planned['snapshot'] / 1e6:.3g}" in memory.held_text(worker.replica)


def test_an_optimizer_that_cannot_be_tried_counts_for_nothing():
    class Odd(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("it has no step of its own")

    assert copies_kept(Odd([nn.Parameter(torch.ones(3))], lr=0.1)) == 0
