"""Batches that are addressed by their step.

``micro(step, micro)`` is a pure function of the task, the seed and the address: a probe, the
applied run, a restart and a replay read the same samples in the same order, with the same
augmentation, whatever was read before and on whichever worker.

The training set is read epoch by epoch, each in an order of its own; an epoch's last batch is
filled up with the next epoch's first samples, so that every sample is seen once an epoch and
every batch is full.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.epoch_order import epoch_order
from ray_autolrs.training.random_streams import Stream, seed_everything, stream_seed
from ray_autolrs.training.task_checks import checked_batch, dataset_size

Address = tuple[int, int]
"""(step, micro): an optimizer step, and the number of a micro-batch in the global batch."""


class Batches(Protocol):
    """Training batches by their step.

    Attributes:
        micro_batches: micro-batches in a global batch.
    """

    micro_batches: int

    def micro(self, step: int, micro: int) -> Any:
        """Return one collated micro-batch, on the CPU."""

    def stream(self, first_step: int, steps: int, micros: range) -> Iterator[list[Any]]:
        """Yield, for each step from ``first_step``, the micro-batches numbered ``micros``.

        The stream may be left early. With loader processes, one stream at a time can be open.
        """

    def begin(self, first_step: int, end_step: int, *, is_probe: bool) -> None:
        """Hear that the steps from ``first_step`` to before ``end_step`` are taken next.

        What probes read is read again, from the same ``first_step``, by other probes and by the
        applied run; what is trained on is not. By itself, any step can be asked for at any time.
        """
        return

    def has(self, micro: int) -> bool:
        """Tell whether this process can read the micro-batches of a number."""
        return True

    def position(self, step: int) -> Any:
        """Return what a later process needs, by ``go_on_from``, to read on; None for nothing."""
        return None

    def go_on_from(self, position: Any, step: int) -> None:
        """Take over from a process that had trained ``step`` steps."""
        return


class ValidationBatches(Protocol):
    """A list of whole batches.

    Attributes:
        sizes: samples in each of them.
    """

    sizes: list[int]

    def __getitem__(self, place: int) -> Any:
        """Return the batch at a place, on the CPU."""


class StepBatches(Batches):
    """The training batches of a task.

    Args:
        task: gives the training set, the batch size and the collation.
        dataset: the training set, if the task has built it already.
        micro_batch_size: samples in a micro-batch; it divides ``task.global_batch_size``.
        seed: orders the epochs and seeds the augmentation.
        pin_memory: load into page-locked memory, for asynchronous copies to a GPU.

    Raises:
        ValueError: the training set is not map-style, or smaller than a global batch.
    """

    def __init__(
        self,
        task: TrainingTask,
        dataset: Any = None,
        *,
        micro_batch_size: int,
        seed: int,
        pin_memory: bool = False,
    ) -> None:
        dataset = task.train_dataset() if dataset is None else dataset
        source = _TrainingBatches(task, dataset, micro_batch_size, seed)
        if source.size < task.global_batch_size:
            raise ValueError(
                f"the training set has {source.size} samples, fewer than "
                f"global_batch_size={task.global_batch_size}; return more from "
                "train_dataset, or take a smaller batch"
            )
        self.micro_batches = task.global_batch_size // micro_batch_size
        """Micro-batches in a global batch."""
        self._source = source
        self._sampler: list[Address] = []
        self._loader: DataLoader[Any] | None = None
        if task.loader_workers > 0:
            self._loader = DataLoader(
                cast("Dataset[Any]", source),
                batch_size=None,
                sampler=self._sampler,
                num_workers=task.loader_workers,
                persistent_workers=True,
                pin_memory=pin_memory,
            )

    def micro(self, step: int, micro: int) -> Any:
        return self._source[step, micro]

    def samples(self, step: int, micro: int) -> tuple[list[int], Sequence[Any]]:
        """Return the samples of a micro-batch before they are joined, and their indices."""
        return self._source.read((step, micro))

    def stream(self, first_step: int, steps: int, micros: range) -> Iterator[list[Any]]:
        addresses = [
            (step, micro) for step in range(first_step, first_step + steps) for micro in micros
        ]
        if self._loader is None:
            loaded: Iterator[Any] = (self._source[address] for address in addresses)
        else:
            # The loader's processes are kept; its sampler is this very list.
            self._sampler[:] = addresses
            loaded = iter(self._loader)
        for _ in range(steps):
            yield [next(loaded) for _ in micros]


class _TrainingBatches(Dataset[Any]):
    """A dataset whose items are whole micro-batches, indexed by address."""

    def __init__(
        self, task: TrainingTask, dataset: Dataset[Any], micro_batch_size: int, seed: int
    ) -> None:
        self.size = dataset_size(dataset, "train_dataset")
        self._task = task
        self._dataset = dataset
        self._micro_batch_size = micro_batch_size
        self._seed = seed

    def __getitem__(self, address: Address) -> Any:
        _, samples = self.read(address)
        return checked_batch(self._task, self._task.collate(samples))

    def read(self, address: Address) -> tuple[list[int], Sequence[Any]]:
        step, micro = address
        first = step * self._task.global_batch_size + micro * self._micro_batch_size
        indices = epoch_order(self.size, self._seed, first, self._micro_batch_size)
        seed_everything(self._seed, Stream.DATA, step, micro)
        return indices, take_samples(self._dataset, indices)


def take_samples(dataset: Dataset[Any], indices: list[int]) -> Sequence[Any]:
    """Return samples of a dataset, all at once where it can do so (PyTorch's protocol)."""
    take_all = getattr(dataset, "__getitems__", None)
    if take_all is not None:
        return cast("Sequence[Any]", take_all(indices))
    return [dataset[index] for index in indices]


def validation_subset(size: int, samples: int, seed: int) -> list[int]:
    """Return the fixed subset that probes are validated on: sorted indices, at most ``samples``."""
    generator = np.random.default_rng(stream_seed(seed, Stream.VALIDATION_SUBSET))
    return sorted(int(index) for index in generator.permutation(size)[:samples])


@lru_cache(maxsize=64)
def _takes_non_blocking(to: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(to).parameters
    except (TypeError, ValueError):  # it is not written in Python
        return True
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return takes_any or "non_blocking" in parameters


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch of tensors, in any nesting of dicts, lists and tuples, on ``device``.

    Containers keep their type; those with a ``to`` of their own move themselves. Anything else
    stays as it is. From pinned memory the copies do not wait for the device.
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if callable(getattr(batch, "to", None)) and not isinstance(batch, type):
        to = getattr(type(batch), "to", batch.to)
        options = {"non_blocking": True} if _takes_non_blocking(to) else {}
        moved = batch.to(device, **options)
        return batch if moved is None else moved  # some move themselves in place
    if isinstance(batch, MutableMapping):
        # A copy keeps what a subclass knows beside its items; some cannot be built from a dict.
        moved = copy.copy(batch)
        moved.update({key: to_device(value, device) for key, value in batch.items()})
        return moved
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, device) for value in cast("Sequence[Any]", batch))
    return batch
