"""A run's schedule, replayed in a plain loop: two calls, and the weights are the run's."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import RunConfig, ScalingConfig
from schedulefree import SGDScheduleFree
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from ray_autolrs import EMA, AutoLRSConfig, AutoLRSTrainer, LRSchedule, ScheduleFree
from ray_autolrs.algorithm.schedules.found_with import FoundWith
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.random_streams import Stream, seed_everything
from tests.training.toy import Build, ToyTask, assert_same, full_net, plain_net, sgd_with

STEPS = 40
BUILDS: dict[str, Build] = {
    "sgd": sgd_with(momentum=0.9, nesterov=True),
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01, momentum=0.5),
    "adamw": lambda model: torch.optim.AdamW(
        [{"params": [p], "lr": 0.01 * (1 + p.ndim)} for p in model.parameters()]
    ),
}
FOUND = FoundWith(kind="ScheduleFreeAverage", momentum=0.8, power=2.0, base_momentum=0.9)
SCHEDULE = LRSchedule((Segment(0, 9, 0.5), Segment(10, 19, 0.05)), FOUND)


def replayed(task: ToyTask, schedule: LRSchedule, *, break_at: int = -1) -> dict[str, Tensor]:
    """Train in a plain loop, and return the weights at the average."""
    seed_everything(0, Stream.BUILD)
    model = task.build_model()
    optimizer = schedule.optimizer(task.build_optimizer(model))
    scheduler = schedule.scheduler(optimizer)
    batches = StepBatches(task, micro_batch_size=16, seed=0)
    for step in range(schedule.total_steps):
        if step == break_at:
            saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
            optimizer = schedule.optimizer(task.build_optimizer(model))
            scheduler = schedule.scheduler(optimizer)
            optimizer.load_state_dict(saved[0])
            scheduler.load_state_dict(saved[1])
        batch = batches.micro(step, 0)
        seed_everything(0, Stream.MODEL, step, 0)
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
        scheduler.step()
    assert isinstance(optimizer, ScheduleFree)
    latest = [batches.micro(step, 0) for step in range(schedule.total_steps - 20, STEPS)]
    with optimizer.averaged(model, latest):
        return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize("name", BUILDS)
def test_a_plain_loop_ends_as_the_run_to_the_bit(name: str, tmp_path: Path):
    task = ToyTask(full_net, BUILDS[name])
    config = AutoLRSConfig(total_steps=STEPS, lr=(1e-3, 0.1)).replaced(
        ("validation.keep_best", False)
    )
    result = AutoLRSTrainer(
        task,
        config,
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="run", storage_path=str(tmp_path)),
    ).fit()
    found = result.schedule.averaging
    assert found is not None
    assert found.base_momentum == {"sgd": 0.9, "rmsprop": 0.5, "adamw": 0.9}[name]
    trained = torch.load(Path(result.checkpoint.path) / "model.pt", weights_only=True)
    assert_same(dict(replayed(task, result.schedule)), dict(trained))
    assert_same(dict(replayed(task, result.schedule, break_at=17)), dict(trained))


def test_the_file_says_what_average_it_was_found_with(tmp_path: Path):
    path = tmp_path / "schedule.json"
    SCHEDULE.save(path)
    assert LRSchedule.load(path) == SCHEDULE
    stored = json.loads(path.read_text())
    assert stored["format"] == "ray_autolrs.schedule/2"
    assert stored["averaging"] == {
        "kind": "ScheduleFreeAverage",
        "momentum": 0.8,
        "power": 2.0,
        "base_momentum": 0.9,
    }
    bare = LRSchedule(SCHEDULE.segments)
    bare.save(path)
    assert "averaging" not in json.loads(path.read_text())
    assert LRSchedule.load(path) == bare


@pytest.mark.parametrize(
    ("averaging", "message"),
    [
        ("yes", "averaging='yes' must be an object, with the kind"),
        ({"momentum": 0.9}, "must have a kind; it may have"),
        ({"kind": "A", "colour": 1}, "must have a kind; it may have"),
        ({"kind": "A", "momentum": 2, "power": 1}, "FoundWith.momentum=2 must be None or a number"),
        ({"kind": "A", "momentum": 0.5}, "FoundWith.power=None must be a number where momentum"),
        ({"kind": "A", "power": -1}, "FoundWith.power=-1 must be None or a finite number"),
        ({"kind": 1}, "FoundWith.kind=1 must be the name"),
    ],
)
def test_a_malformed_average_is_refused(averaging: Any, message: str):
    with pytest.raises(ValueError, match=message):
        LRSchedule.from_dict(SCHEDULE.to_dict() | {"averaging": averaging})


def test_averages_beside_the_optimizer_leave_it_alone():
    base = sgd_with()(plain_net())
    for found in (None, EMA().found_with()):
        schedule = LRSchedule(SCHEDULE.segments, found)
        assert schedule.optimizer(base) is base
        schedule.scheduler(base)


def test_another_average_than_that_of_the_run_is_told():
    base = sgd_with(momentum=0.9)
    with pytest.warns(UserWarning, match="momentum=0.8, power=2.0.* SGD does not average"):
        SCHEDULE.scheduler(base(plain_net()))
    other = ScheduleFree(base(plain_net()), momentum=0.5)
    with pytest.warns(UserWarning, match=r"this one averages with momentum=0.5, power=2.0"):
        SCHEDULE.scheduler(other)
    with pytest.warns(UserWarning, match=r"momentum=0.9, and this SGD has 0.0"):
        SCHEDULE.optimizer(sgd_with()(plain_net()))
    inner = base(plain_net())
    right = SCHEDULE.optimizer(inner)
    package_s = SGDScheduleFree(plain_net().parameters(), lr=0.1)
    for optimizer in (right, inner, package_s):  # the inner one shares its groups
        SCHEDULE.scheduler(optimizer)


@pytest.mark.parametrize("broken_at", [3, 5, 12])
@pytest.mark.parametrize("averaged", [True, False])
def test_a_resume_goes_on_after_a_warm_up_and_before_another_schedule(
    broken_at: int, averaged: bool
):
    """In each turn of a SequentialLR, whatever is loaded first."""

    def built() -> tuple[torch.optim.Optimizer, SequentialLR]:
        base = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5, momentum=0.9)
        optimizer = SCHEDULE.optimizer(base) if averaged else base
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is not averaged, and says so
            replay = SCHEDULE.scheduler(optimizer)
        warmup = LinearLR(optimizer, start_factor=0.1, total_iters=5)
        last = CosineAnnealingLR(optimizer, 8)
        return optimizer, SequentialLR(optimizer, [warmup, replay, last], [5, 11])

    def lrs(optimizer: torch.optim.Optimizer, scheduler: SequentialLR, steps: int) -> list[float]:
        seen = []
        for _ in range(steps):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return seen

    whole = lrs(*built(), 20)
    optimizer, scheduler = built()
    begun = lrs(optimizer, scheduler, broken_at)
    saved = optimizer.state_dict(), scheduler.state_dict()
    optimizer, scheduler = built()
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    assert begun + lrs(optimizer, scheduler, 20 - broken_at) == whole
