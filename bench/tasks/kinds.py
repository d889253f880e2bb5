"""What the benchmarks' tasks have in common: data in memory, a test set, and the kinds of loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, default_collate

from ray_autolrs import TrainingTask

Part = Literal["train", "validation", "test"]


class Rows(Dataset[Any]):
    """Equally long tensors; a batch is a tuple of their rows, taken at once.

    >>> rows = Rows(torch.arange(6).view(3, 2), torch.arange(3))
    >>> [part.tolist() for part in rows.__getitems__([2, 0])]
    [[[4, 5], [0, 1]], [2, 0]]
    """

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(part[0] for part in self.__getitems__([index]))

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        rows = torch.tensor(indices)
        return tuple(tensor[rows] for tensor in self.tensors)


class BenchTask(TrainingTask):
    """A task with a test set, whose data sets make a whole batch at once."""

    eval_batch_size = 250

    @abstractmethod
    def data(self, part: Part) -> Dataset[Any]:
        """Return a part of the data."""

    def train_dataset(self) -> Dataset[Any]:
        return self.data("train")

    def val_dataset(self) -> Dataset[Any]:
        return self.data("validation")

    def test_dataset(self) -> Dataset[Any]:
        """Return what neither training, search nor tuning may see."""
        return self.data("test")

    def collate(self, samples: Sequence[Any]) -> Any:
        return samples if isinstance(samples, tuple) else default_collate(list(samples))


class Classification(BenchTask):
    """Batches of images and labels."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"accuracy": (model(batch[0]).argmax(dim=1) == batch[1]).float().mean()}


class NextToken(BenchTask):
    """Batches of windows of tokens, each predicted from those before it."""

    def loss(self, model: nn.Module, batch: tuple[Tensor]) -> Tensor:
        ids = batch[0].long()
        return cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
