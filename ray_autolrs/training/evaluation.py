"""Means of the loss and the metrics over a validation set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.batches import (
    ValidationBatches,
    dataset_size,
    take_samples,
    to_device,
)
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.random_streams import Stream, seed_everything
from ray_autolrs.training.replica import Replica
from ray_autolrs.training.snapshot import share_buffers


class Evaluation:
    """A fixed list of validation batches, shared out among the workers.

    Args:
        task: gives the loss and the metrics.
        batches: the list; a worker of rank r in a group of n gets those at r, r + n, ...
        seed: seeds, for each batch, the random numbers of the model, so that every evaluation
            sees the same.
    """

    def __init__(self, task: TrainingTask, batches: ValidationBatches, *, seed: int = 0) -> None:
        self._task = task
        self._batches = batches
        self._seed = seed

    @property
    def samples(self) -> int:
        """Samples in the list."""
        return sum(self._batches.sizes)

    def run(self, replica: Replica, group: Group, *, with_metrics: bool) -> dict[str, float]:
        """Return the sample-weighted means over the whole list, the same on every worker.

        Each batch's values go to a place of their own and are added up in the batches' order,
        so that the result does not depend on how many workers shared the work.

        Returns:
            ``"loss"``, and the task's metrics if ``with_metrics``.

        Raises:
            ValueError: the task's metrics are not of shape (), or one is named ``"loss"``.
        """
        share_buffers(replica.module, group)
        sizes = self._batches.sizes
        mine = range(group.rank, len(sizes), group.size)
        names: list[str] = []
        rows: list[Tensor] = []
        replica.module.eval()
        with torch.no_grad(), replica.autocast():
            for place, batch in zip(mine, self._load(mine), strict=True):
                batch = to_device(batch, replica.device)
                seed_everything(self._seed, Stream.EVALUATION_MODEL, place)
                values = {"loss": self._task.loss(replica.module, batch)}
                if with_metrics:
                    values |= self._checked(self._task.metrics(replica.module, batch))
                names = list(values)
                rows.append(torch.stack([_as_float64(value) for value in values.values()]))
        # A worker without a batch of its own still takes part; rank 0 always has one.
        names = group.broadcast_object(names)
        table = torch.zeros(len(sizes), len(names), dtype=torch.float64, device=replica.device)
        for place, row in zip(mine, rows, strict=True):
            table[place] = row
        group.sum_(table)
        weights = torch.tensor(sizes, dtype=torch.float64)
        means = (weights @ table.cpu()) / weights.sum()
        return dict(zip(names, means.tolist(), strict=True))

    def _checked(self, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        task = type(self._task).__name__
        if "loss" in metrics:
            raise ValueError(f"{task}.metrics returned 'loss', a name that is taken; rename it")
        for name, value in metrics.items():
            if torch.as_tensor(value).ndim != 0:
                raise ValueError(
                    f"{task}.metrics[{name!r}] has shape {tuple(value.shape)}; it must be a mean, "
                    "of shape ()"
                )
        return dict(metrics)

    def _load(self, places: range) -> Iterator[Any]:
        """Yield the batches at ``places``, in order."""
        if self._task.loader_workers == 0:
            return (self._batches[place] for place in places)
        return iter(
            DataLoader(
                cast("Dataset[Any]", self._batches),
                batch_size=None,
                sampler=places,
                num_workers=self._task.loader_workers,
            )
        )


def validation_batches(
    task: TrainingTask,
    dataset: Dataset[Any],
    batch_size: int,
    indices: Sequence[int] | None = None,
    *,
    seed: int = 0,
) -> ValidationBatches:
    """Return a validation set's batches.

    Args:
        task: gives the collation.
        dataset: the validation set.
        batch_size: samples in a forward pass.
        indices: the samples to use, or None for all.
        seed: seeds, for each batch, the random numbers of the dataset (masks of a masked
            language model, for example).

    Raises:
        ValueError: the dataset is not map-style, or there is no sample.
    """
    size = dataset_size(dataset, "val_dataset")
    chosen = list(range(size)) if indices is None else list(indices)
    if not chosen:
        raise ValueError("the validation set is empty; give at least one sample")
    batches = [chosen[at : at + batch_size] for at in range(0, len(chosen), batch_size)]
    return _DatasetBatches(task, dataset, batches, seed)


class _DatasetBatches(Dataset[Any]):
    """A dataset whose items are whole batches, indexed by their place in the list."""

    def __init__(
        self, task: TrainingTask, dataset: Dataset[Any], batches: list[list[int]], seed: int
    ) -> None:
        self.sizes = [len(batch) for batch in batches]
        self._task = task
        self._dataset = dataset
        self._batches = batches
        self._seed = seed

    def __getitem__(self, place: int) -> Any:
        seed_everything(self._seed, Stream.EVALUATION_DATA, place)
        return self._task.collate(take_samples(self._dataset, self._batches[place]))


def _as_float64(value: Tensor) -> Tensor:
    return torch.as_tensor(value).detach().to(torch.float64)
