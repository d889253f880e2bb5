"""A small classification task in float64 whose parts a test can swap."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.averaging.ema import EMA
from ray_autolrs.training.averaging.running_average import RunningAverage
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.collectives import Group, Solo
from ray_autolrs.training.replica import Replica
from ray_autolrs.training.settings import TrainingSettings, Validation
from ray_autolrs.training.snapshot import Snapshot
from ray_autolrs.training.worker import Worker


@dataclass(frozen=True)
class Mean(Averaging):
    """A user's own average: the mean of all weights so far."""

    def build(self, optimizer: torch.optim.Optimizer) -> RunningAverage:
        return RunningAverage(optimizer, lambda t: 1 / t)


AVERAGES: dict[str, Averaging] = {
    "schedule_free": ScheduleFreeAverage(),
    "ema": EMA(),
    "own": Mean(),
}
Build = Callable[[nn.Module], torch.optim.Optimizer]

CPU = torch.device("cpu")
FEATURES, CLASSES = 6, 3


def sgd_with(**settings: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), lr=0.1, **settings)


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


def settings(
    averaging: Averaging | None = None,
    *,
    divergence_check_steps: int = 10,
    follows_path: bool = False,
    **validation: Any,
) -> TrainingSettings:
    """Return settings as a run's config resolves them; the last weights count as the best."""
    batch = ToyTask.global_batch_size
    return TrainingSettings(
        averaging=averaging.resolve(batch) if averaging else None,
        validation=Validation(**{"keep_best": False, **validation}).resolve(batch),
        divergence_check_steps=divergence_check_steps,
        follows_path=follows_path,
    )


def make_worker(
    task: TrainingTask,
    averaging: Averaging | None = None,
    *,
    group: Group | None = None,
    **rest: Any,
) -> Worker:
    worker = Worker(task, settings(averaging, **rest), group or Solo(), CPU)
    worker.take_snapshot(0)
    return worker


def silent(done: int, loss: float) -> None:
    """Progress that nobody is told."""


def train(worker: Worker, first_step: int, steps: int, lr: float = 0.05) -> list[float]:
    """Take steps without touching the snapshot, and return the mean loss of each."""
    losses = worker.engine.loss_table(steps)
    done = list(worker.engine.steps(first_step, steps, lambda step: lr, losses))
    assert done == list(range(1, steps + 1))
    means: list[float] = losses.mean(dim=1).tolist()
    return means


def values(replica: Replica) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in replica.module.parameters()]


def averages(worker: Worker) -> list[Tensor]:
    with worker.replica.average.swapped_in():
        return values(worker.replica)


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


def assert_near(left: list[Tensor], right: list[Tensor], close: float = 1e-12) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=close)


def differs(left: list[Tensor], right: list[Tensor]) -> bool:
    return any(not torch.equal(one, other) for one, other in zip(left, right, strict=True))
