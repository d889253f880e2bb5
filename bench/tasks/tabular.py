"""Tasks on tables: real ones that come with scikit-learn, and made ones."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    make_classification,
    make_friedman1,
)
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import Dataset

from bench.tasks.kinds import BenchTask, Classification, Part, Rows


class Tumours(Classification):
    """400 rows of 30 features, read 90 times, a tenth of all labels turned round; AdamW."""

    global_batch_size = 16

    def build_model(self) -> nn.Module:
        return network(30, 64, 2)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)

    def data(self, part: Part) -> Dataset[Any]:
        return _table("tumours")[part]


class NoisyTable(Classification):
    """Five classes of points, a fifth of the labels drawn anew; Adagrad."""

    global_batch_size = 64

    def build_model(self) -> nn.Module:
        return network(40, 96, 5)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(model.parameters(), lr=1e-2)

    def data(self, part: Part) -> Dataset[Any]:
        return _table("noisy")[part]


class Regression(BenchTask):
    """Batches of features and a standardised target; squared error."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return mse_loss(model(batch[0])[:, 0], batch[1])


class Diabetes(Regression):
    """300 rows of 10 features: little to learn, and soon too much; SGD with momentum."""

    global_batch_size = 16

    def build_model(self) -> nn.Module:
        return network(10, 32, 1)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def data(self, part: Part) -> Dataset[Any]:
        return _table("diabetes")[part]


class Friedman(Regression):
    """A smooth function of ten features with little noise, batches of 128; RMSprop."""

    global_batch_size = 128

    def build_model(self) -> nn.Module:
        return network(10, 64, 1)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(model.parameters(), lr=1e-3)

    def data(self, part: Part) -> Dataset[Any]:
        return _table("friedman")[part]


class HeavyTails(Friedman):
    """The same function, with noise of infinite variance on the training targets; Adam."""

    global_batch_size = 32

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)

    def data(self, part: Part) -> Dataset[Any]:
        rows = _table("friedman")[part]
        if part != "train":
            return rows
        features, targets = rows.tensors
        # Student's t with 1.5 degrees of freedom has a mean and no variance.
        noise = np.random.default_rng(0).standard_t(1.5, len(targets))
        return Rows(features, targets + 0.3 * torch.tensor(noise, dtype=torch.float32))


def network(inputs: int, width: int, outputs: int) -> nn.Module:
    """Return a perceptron of two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


@lru_cache(maxsize=4)
def _table(name: str) -> dict[Part, Rows]:
    return table_parts(*_TABLES[name]())


def table_parts(features: Any, targets: Any) -> dict[Part, Rows]:
    """Return a table's parts, standardised by the training part.

    Args:
        features: array of shape (rows, columns).
        targets: array of shape (rows,): classes, or numbers, which are standardised too.
    """
    order = np.random.default_rng(0).permutation(len(targets))
    features, targets = features[order], targets[order]
    held = min(2000, len(targets) // 6)
    rows: dict[Part, slice] = {
        "test": slice(0, held),
        "validation": slice(held, 2 * held),
        "train": slice(2 * held, None),
    }
    train = features[rows["train"]]
    features = (features - train.mean(axis=0)) / train.std(axis=0)
    if targets.dtype.kind == "f":
        train = targets[rows["train"]]
        targets = ((targets - train.mean()) / train.std()).astype(np.float32)
    return {
        part: Rows(torch.tensor(features[at], dtype=torch.float32), torch.tensor(targets[at]))
        for part, at in rows.items()
    }


def _tumours() -> tuple[Any, Any]:
    # As they are, the loss falls to a few hundredths, and what is left is a matter of two rows.
    features, labels = load_breast_cancer(return_X_y=True)
    turned = np.random.default_rng(1).random(len(labels)) < 0.1
    return features, np.where(turned, 1 - labels, labels)


def _noisy() -> tuple[Any, Any]:
    features, labels = make_classification(
        6000,
        n_features=40,
        n_informative=12,
        n_classes=5,
        n_clusters_per_class=4,
        flip_y=0.2,
        random_state=0,
    )
    return features, labels


_TABLES: dict[str, Any] = {
    "tumours": _tumours,
    "diabetes": lambda: load_diabetes(return_X_y=True),
    "noisy": _noisy,
    "friedman": lambda: make_friedman1(12_000, n_features=10, noise=0.3, random_state=0),
}
