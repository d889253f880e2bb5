"""Means of the loss and the metrics over a validation set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.batches import (
    ValidationBatches,
    take_samples,
    to_device,
)
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.gradient_checks import counts_nothing
from ray_autolrs.training.random_streams import Stream, seed_everything
from ray_autolrs.training.replica import Replica
from ray_autolrs.training.snapshot import share_buffers
from ray_autolrs.training.task_checks import (
    checked_batch,
    checked_metrics,
    dataset_size,
    told_by_name,
)


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
        self._latest: dict[str, float] | None = None

    def take_latest(self) -> dict[str, float] | None:
        """Return the means of the latest run, once; None if there was none since."""
        latest, self._latest = self._latest, None
        return latest

    @property
    def samples(self) -> int:
        """Samples in the list."""
        return sum(self._batches.sizes)

    def run(self, replica: Replica, group: Group, *, with_metrics: bool) -> dict[str, float]:
        """Return the sample-weighted means over the whole list, the same on every worker.

        Each batch's values go to a place of their own and are added up in the batches' order,
        so that the result does not depend on how many workers shared the work. A batch without a
        single counted label, whose loss is 0 / 0, is left out of the mean loss.

        Returns:
            ``"loss"``, and the task's metrics if ``with_metrics``.

        Raises:
            ValueError: the task's metrics are not of shape (), or one is named ``"loss"``, or
                their names differ between batches.
        """
        share_buffers(replica.module, group)
        names, table = self._table(replica, group, with_metrics=with_metrics)
        weights = torch.tensor(self._batches.sizes, dtype=torch.float64)
        means = (weights @ table) / weights.sum()
        losses = table[:, 0]
        if losses.isnan().any() and losses.isfinite().any() and replica.can_look_back:
            counted = ~self._uncounted(replica, group, losses)
            weights = weights[counted]
            means[0] = (weights @ losses[counted]) / weights.sum()
        self._latest = dict(zip(names, means.tolist(), strict=True))
        return dict(self._latest)

    def check(self, replica: Replica) -> None:
        """Refuse a loss or metrics of the first batch that are not what they must be."""
        replica.module.eval()
        with told_by_name(self._task, "a batch of val_dataset, joined by collate,"):
            batch = next(self._load(range(1)))
        methods = "loss or metrics, on a batch of val_dataset joined by collate,"
        with told_by_name(self._task, methods), replica.forward_only():
            self._values(replica, 0, batch, with_metrics=True)

    def bad_samples(self, replica: Replica, group: Group) -> list[int] | None:
        """Return the indices of the first batch whose loss is not finite; None without one.

        Where the batches are not made of a dataset's samples, it is [].
        """
        _, table = self._table(replica, group, with_metrics=False)
        bad = (~table[:, 0].isfinite()).nonzero().flatten().tolist()
        if not bad:
            return None
        return self._batches.indices[bad[0]] if isinstance(self._batches, _DatasetBatches) else []

    def _table(
        self, replica: Replica, group: Group, *, with_metrics: bool
    ) -> tuple[list[str], Tensor]:
        """Return the values' names, and each batch's values, on the CPU."""
        count = len(self._batches.sizes)
        mine = range(group.rank, count, group.size)
        names: list[str] = []
        rows: list[Tensor] = []
        replica.module.eval()
        # A forward pass of a sharded model needs every worker: those without a batch of their own
        # take part with another's.
        rounds = -(-count // group.size) if replica.is_sharded else len(mine)
        places = [*mine, *[count - 1] * (rounds - len(mine))]
        with replica.forward_only():
            for place, batch in zip(places, self._load(places), strict=True):
                values = self._values(replica, place, batch, with_metrics=with_metrics)
                names = names or list(values)
                self._check_names(names, list(values))
                rows.append(torch.stack([_as_float64(values[name]) for name in names]))
        # A worker without a batch of its own still takes part; rank 0 always has one.
        mine_names, names = names, group.broadcast_object(names)
        self._check_names(names, mine_names or names)
        table = torch.zeros(count, len(names), dtype=torch.float64, device=replica.device)
        for place, row in zip(mine, rows, strict=False):
            table[place] = row
        group.sum_(table)
        return names, table.cpu()

    def _values(
        self, replica: Replica, place: int, batch: Any, *, with_metrics: bool
    ) -> dict[str, Tensor]:
        batch = to_device(batch, replica.device)
        seed_everything(self._seed, Stream.EVALUATION_MODEL, place)
        values = {"loss": self._task.loss(replica.module, batch)}
        if with_metrics:
            values |= checked_metrics(self._task, self._task.metrics(replica.module, batch))
        return values

    def _check_names(self, first: list[str], names: list[str]) -> None:
        if first != names:
            raise ValueError(
                f"{type(self._task).__name__}.metrics returned {names[1:]} for one validation "
                f"batch and {first[1:]} for another; it must return the same names, in the same "
                "order, for each"
            )

    def _uncounted(self, replica: Replica, group: Group, losses: Tensor) -> Tensor:
        """Return which batches have no loss, as no label counts; the same on every worker."""
        found = torch.zeros(len(losses), dtype=torch.float64, device=replica.device)
        # Of a sharded model all workers look at each together.
        every = 1 if replica.is_sharded else group.size
        shared = range(group.rank % every, len(losses), every)
        mine = [place for place in shared if losses[place].isnan()]
        for place, batch in zip(mine, self._load(mine), strict=True):
            with torch.enable_grad(), replica.autocast():
                loss = self._values(replica, place, batch, with_metrics=False)["loss"]
            found[place] = float(counts_nothing(replica, loss))
        replica.clear_gradients()
        group.sum_(found)
        return found.cpu() > 0

    def _load(self, places: Sequence[int]) -> Iterator[Any]:
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
        raise ValueError("the validation set is empty; val_dataset must return at least one sample")
    batches = [chosen[at : at + batch_size] for at in range(0, len(chosen), batch_size)]
    return _DatasetBatches(task, dataset, batches, seed)


class _DatasetBatches(Dataset[Any]):
    """A dataset whose items are whole batches, indexed by their place in the list."""

    def __init__(
        self, task: TrainingTask, dataset: Dataset[Any], batches: list[list[int]], seed: int
    ) -> None:
        self.sizes = [len(batch) for batch in batches]
        self.indices = batches
        self._task = task
        self._dataset = dataset
        self._seed = seed

    def __getitem__(self, place: int) -> Any:
        seed_everything(self._seed, Stream.EVALUATION_DATA, place)
        samples = take_samples(self._dataset, self.indices[place])
        return checked_batch(self._task, self._task.collate(samples))


def _as_float64(value: Tensor) -> Tensor:
    return torch.as_tensor(value).detach().to(torch.float64)
