"""Validation data that are ready batches or a stream, as a list of batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.batches import take_samples, to_device, validation_subset
from ray_autolrs.training.random_streams import Stream, seed_everything
from ray_autolrs.training.ready_batches import HOST, arrays, copied

logger = logging.getLogger(__name__)


class ListedValidation:
    """Validation batches that can be asked for by their place.

    Args:
        batches: by place.
        sizes: samples in each of them.
        places: those of ``batches`` that this list has.
    """

    def __init__(self, batches: Any, sizes: Sequence[int], places: Sequence[int]) -> None:
        self.sizes = [sizes[place] for place in places]
        self._batches = batches
        self._places = list(places)

    def __getitem__(self, place: int) -> Any:
        return self._batches[self._places[place]]

    def part(self, samples: int, seed: int) -> ListedValidation:
        """Return as many whole batches, drawn by the seed, as have ``samples`` samples or more."""
        count = math.ceil(samples * len(self.sizes) / sum(self.sizes))
        return ListedValidation(self, self.sizes, validation_subset(len(self.sizes), count, seed))


def stream_validation(
    task: TrainingTask, data: Any, batch_size: int, seed: int
) -> ListedValidation:
    """Return the batches of validation data that are no map-style dataset.

    A ``DataLoader`` over a map-style dataset is read again in each evaluation, by the indices
    that its sampler gives now. Anything else is read once, to its end, and kept in host memory.

    Args:
        task: gives the collation of an ``IterableDataset``'s samples.
        data: what ``task.val_dataset()`` returned.
        batch_size: samples in a batch that is collated here.
        seed: of random numbers that the data draw.

    Raises:
        ValueError: there is no batch.
    """
    seed_everything(seed, Stream.EVALUATION_DATA)
    if isinstance(data, DataLoader) and _is_indexed(data):
        indices = [list(batch) for batch in data.batch_sampler or ()]
        batches: Any = _LoaderBatches(data, indices, seed)
        sizes = [len(batch) for batch in indices]
    else:
        kept = _read(task, data, batch_size, seed)
        batches, sizes = _KeptBatches(kept), [_samples(batch) for batch in kept]
        size_bytes = sum(array.nbytes for batch in kept for array in arrays(batch))
        logger.info(
            "%d validation batches are kept in host memory: %.3g MB", len(kept), size_bytes / 1e6
        )
    if not sizes:
        raise ValueError(
            f"{type(task).__name__}.val_dataset() gave no batch; give at least one sample, and "
            "a new iterator on each call"
        )
    return ListedValidation(batches, sizes, range(len(sizes)))


def _is_indexed(loader: DataLoader[Any]) -> bool:
    return loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)


class _LoaderBatches:
    def __init__(self, loader: DataLoader[Any], indices: list[list[int]], seed: int) -> None:
        self._dataset, self._collate = loader.dataset, loader.collate_fn
        self._indices = indices
        self._seed = seed

    def __getitem__(self, place: int) -> Any:
        seed_everything(self._seed, Stream.EVALUATION_DATA, place)
        return self._collate(list(take_samples(self._dataset, self._indices[place])))


class _KeptBatches:
    def __init__(self, kept: list[Any]) -> None:
        self._kept = kept

    def __getitem__(self, place: int) -> Any:
        return copied(self._kept[place])


def _read(task: TrainingTask, data: Any, batch_size: int, seed: int) -> list[Any]:
    """Read data to their end."""
    if hasattr(data, "iter_torch_batches"):  # of ray.data
        data = data.iter_torch_batches(batch_size=batch_size)
    if not isinstance(data, IterableDataset):
        return [to_device(batch, HOST) for batch in data]
    batches: list[Any] = []
    samples: list[Any] = []
    for sample in data:
        samples.append(sample)
        if len(samples) == batch_size:
            batches.append(task.collate(samples))
            samples = []
            seed_everything(seed, Stream.EVALUATION_DATA, len(batches))
    return [*batches, task.collate(samples)] if samples else batches


def _samples(batch: Any) -> int:
    """Return the samples in a batch: the length of its first tensor, or 1 without one."""
    sizes = [len(array) for array in arrays(batch) if array.ndim]
    return sizes[0] if sizes else 1
