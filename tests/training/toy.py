"""A small classification task in float64 whose parts a test can swap."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Group, Solo
from ray_autolrs.training.replica import Replica
from ray_autolrs.training.snapshot import Snapshot
from ray_autolrs.training.worker import Worker

CPU = torch.device("cpu")
FEATURES, CLASSES = 6, 3


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def plain_net() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double()


def full_net() -> nn.Module:
    """With batch normalisation and dropout."""
    return nn.Sequential(
        nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, CLASSES)
    ).double()


class ToyTask(TrainingTask):
    """Its settings are attributes, given by name."""

    global_batch_size = 16
    samples = 50
    val_samples = 21
    augment = False

    def __init__(
        self,
        net: Callable[[], nn.Module] = full_net,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer] = sgd,
        **settings: Any,
    ) -> None:
        self.net, self.optimizer = net, optimizer
        for name, value in settings.items():
            setattr(self, name, value)

    def build_model(self) -> nn.Module:
        return self.net()

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return self.optimizer(model)

    def train_dataset(self) -> Dataset[Any]:
        return Augmented(self.samples) if self.augment else points(self.samples)

    def val_dataset(self) -> Dataset[Any]:
        return points(self.val_samples)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"accuracy": (model(batch[0]).argmax(dim=1) == batch[1]).double().mean()}


def points(samples: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(samples, FEATURES, generator=generator, dtype=torch.float64)
    noise = torch.randn(samples, generator=generator, dtype=torch.float64)
    y = (x[:, 0] + 0.3 * noise > 0).long() + (x[:, 1] > 0.5).long()
    return TensorDataset(x, y)


class Augmented(Dataset[Any]):
    """Draws from all three generators at each read."""

    def __init__(self, samples: int) -> None:
        self.points = points(samples)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.points[index]
        shift = random.gauss(0, 0.1) + float(np.random.normal(0, 0.1))
        return x + shift + 0.1 * torch.randn(FEATURES, dtype=torch.float64), y


def small_config(**overrides: Any) -> AutoLRSConfig:
    values: dict[str, Any] = {
        "total_steps": 400,
        "lr_min": 1e-3,
        "lr_max": 1.0,
        "first_stage_steps": 80,
        "max_stage_steps": 160,
    }
    return AutoLRSConfig.paper(**(values | overrides))


def make_worker(task: TrainingTask, group: Group | None = None, **config: Any) -> Worker:
    worker = Worker(task, small_config(**config), group or Solo(), CPU)
    worker.take_snapshot(0)
    return worker


def train(worker: Worker, first_step: int, steps: int, lr: float = 0.05) -> list[float]:
    """Take steps without touching the snapshot, and return the mean loss of each."""
    segment = Segment(first_step, first_step + steps - 1, lr)
    micros = range(worker.batches.micro_batches)
    losses = torch.zeros(steps, len(micros), dtype=torch.float64)
    for done, batch in enumerate(worker.batches.stream(first_step, steps, micros)):
        step = first_step + done
        worker.replica.take_step(step, batch, micros, segment.lr_at(step), losses[done])
    means: list[float] = losses.mean(dim=1).tolist()
    return means


def state_of(replica: Replica) -> dict[str, Any]:
    """Return an independent copy of all that a snapshot promises to restore."""
    snapshot = Snapshot()
    snapshot.capture(replica, 0)
    return snapshot.state_dict()


def assert_same(left: Any, right: Any, path: str = "state") -> None:
    """Compare nested values to the last bit."""
    assert type(left) is type(right), (path, type(left), type(right))
    if isinstance(left, Tensor):
        assert left.dtype == right.dtype, path
        assert torch.equal(left, right), path
    elif isinstance(left, np.ndarray):
        np.testing.assert_array_equal(left, right, err_msg=path)
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), (path, left.keys(), right.keys())
        for key in left:
            assert_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), path
        for place, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, f"{path}[{place}]")
    else:
        assert left == right, path
