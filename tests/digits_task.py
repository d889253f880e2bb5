"""A small task that trains in milliseconds: a two-layer network on scikit-learn's digits.

In float64, with batch normalisation and dropout, so that equal runs are equal to the last bit
and unequal random numbers show.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ray_autolrs import AutoLRSConfig, GaussianProcess, Stages, TrainingTask, Warmup


@functools.cache
def read_digits() -> np.ndarray:
    """Return scikit-learn's digits, a row each: 64 pixels from 0 to 16, and the digit.

    Without an import of scikit-learn: it takes each process, and so each worker, over a second.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    return np.loadtxt(file, delimiter=",")


class DigitsTask(TrainingTask):
    global_batch_size = 32
    micro_batch_size = 16
    eval_batch_size = 64

    def build_model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 10)
        ).double()

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def train_dataset(self) -> TensorDataset:
        return self.part(slice(0, 400))

    def val_dataset(self) -> TensorDataset:
        return self.part(slice(400, 500))

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: list[Tensor]) -> dict[str, Tensor]:
        return {"accuracy": (model(batch[0]).argmax(dim=1) == batch[1]).double().mean()}

    def part(self, rows: slice) -> TensorDataset:
        digits = read_digits()[rows]
        return TensorDataset(
            torch.tensor(digits[:, :-1] / 16), torch.tensor(digits[:, -1].astype(np.int64))
        )


def short_config(**parts: object) -> AutoLRSConfig:
    """Warm-up and three stages, of 80, 160 and 160 steps; the last judged by validation loss."""
    values: dict[str, object] = {
        "total_steps": 410,
        "lr": (1e-3, 3.0),
        "warmup": Warmup(steps=10, lr=math.sqrt(1e-3 * 3.0)),
        "stages": Stages(first_steps=80, longest_steps=160),
        "search": GaussianProcess(probes=4, validation_evals=8),
    }
    return AutoLRSConfig.paper(**(values | parts))  # type: ignore[arg-type]
