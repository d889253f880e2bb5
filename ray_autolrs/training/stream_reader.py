"""Reading a stream in its own order: epoch after epoch, one micro-batch at a time."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.batches import to_device
from ray_autolrs.training.random_streams import Stream, seed_everything
from ray_autolrs.training.ready_batches import HOST

logger = logging.getLogger(__name__)

_OPENED: weakref.WeakSet[Any] = weakref.WeakSet()
"""Iterators that have been read from: they cannot begin anew."""


def is_stream(data: Any) -> bool:
    """Tell whether a task's data are read in their own order, rather than by index."""
    if isinstance(data, (IterableDataset, DataLoader)) or hasattr(data, "iter_torch_batches"):
        return True
    if isinstance(data, (str, bytes, Mapping, type)):
        return False
    return hasattr(data, "__iter__") and not (
        hasattr(data, "__len__") and hasattr(data, "__getitem__")
    )


@dataclass(frozen=True, slots=True)
class Position:
    """Where a stream can be read on from.

    Attributes:
        place: micro-batches of this worker that come before it.
        epoch: times that the stream has ended before it.
        state: of the stream's ``state_dict``; None stands for the stream's beginning.
    """

    place: int = 0
    epoch: int = 0
    state: Any = None


class StreamReader:
    """Reads the micro-batches of a stream from a position on.

    A stream that can be iterated again begins anew at its end, as the next epoch. Random numbers
    that it draws are seeded for each micro-batch, so that reading it again gives the same.

    Args:
        task: gives the stream, by ``method``, and the collation of samples.
        method: the task's method that returns the stream.
        source: what it returned.
        micro_batch_size: samples in a micro-batch.
        position: where to begin.

    Attributes:
        place: number of the next micro-batch.
        source: as given.
        knows_its_state: whether the stream can tell where it is, and be put there.

    Raises:
        ValueError: the stream is an iterator that was read before.
    """

    def __init__(
        self,
        task: TrainingTask,
        method: str,
        source: Any,
        micro_batch_size: int,
        position: Position | None = None,
    ) -> None:
        position = position or Position()
        self.place, self._epoch = position.place, position.epoch
        self._task = task
        self._name = f"{type(task).__name__}.{method}()"
        self._size = micro_batch_size
        self.source = source
        if hasattr(source, "iter_torch_batches"):  # of ray.data
            source = source.iter_torch_batches(batch_size=micro_batch_size)
        self._source = source
        self._gives_samples = isinstance(source, IterableDataset)
        self.knows_its_state = hasattr(source, "state_dict") and hasattr(source, "load_state_dict")
        self._is_checked = False
        self._rest: Iterator[Any] | None = None
        self._refuse_read_iterator()
        if position.state is not None:
            self._tell_epoch()
            source.load_state_dict(copy.deepcopy(position.state))
        self._opens_first = position.state is not None

    def position(self) -> Position | None:
        """Return where the next micro-batch begins, by the stream's state.

        Returns:
            None if a checkpoint cannot hold the state: it is no plain data.
        """
        file = io.BytesIO()
        try:
            torch.save(self._source.state_dict(), file)
            file.seek(0)
            return Position(self.place, self._epoch, torch.load(file, weights_only=True))
        except (pickle.PickleError, AttributeError, TypeError, RuntimeError) as error:
            logger.warning(
                "the state_dict of %s is not used, as it holds more than tensors and plain data: "
                "%s",
                self._name,
                str(error).partition("\n")[0],
            )
            self.knows_its_state = False
            return None

    def read(self, seed: int, stream: Stream, *address: int) -> Any | None:
        """Return the next micro-batch in host memory; None if an iterator has ended for good.

        Args:
            seed: the run's; with ``stream`` and ``address`` it seeds the numbers that are drawn.
            stream: see ``seed``.
            address: see ``seed``.

        Raises:
            ValueError: the first batch is not of the micro-batch's size, or the stream is empty.
        """
        if self._opens_first and self._rest is None:
            self._open()  # In a run that was not interrupted it drew its numbers long before.
        seed_everything(seed, stream, *address)
        if self._gives_samples:
            samples: list[Any] = []
            while len(samples) < self._size and (sample := self._next()) is not _END:
                samples.append(sample)
            if len(samples) < self._size:
                return None
            batch = self._task.collate(samples)
        elif (batch := self._next()) is _END:
            return None
        else:
            self._check_size(batch)
        self.place += 1
        return to_device(batch, HOST)

    def _next(self) -> Any:
        if self._rest is None:
            self._open()
        assert self._rest is not None
        if (item := next(self._rest, _END)) is not _END:
            return item
        if self._rest is self._source:
            return _END
        self._epoch += 1
        self._open()
        item = next(self._rest, _END)
        if item is _END and self.place == 0:
            raise ValueError(f"{self._name} gave a stream without a batch; give at least one")
        return item

    def _open(self) -> None:
        self._rest = None  # The processes of a loader end before new ones start.
        self._tell_epoch()
        self._rest = iter(self._source)
        if self._rest is self._source:
            try:
                _OPENED.add(self._source)
            except TypeError:  # It cannot be remembered; the caller is believed.
                return

    def _tell_epoch(self) -> None:
        """Tell samplers and sets that shuffle by the epoch's number, as PyTorch's loops do."""
        for holder in (self._source, getattr(self._source, "sampler", None)):
            if callable(set_epoch := getattr(holder, "set_epoch", None)):
                set_epoch(self._epoch)

    def _refuse_read_iterator(self) -> None:
        try:
            is_read = self._source in _OPENED
        except TypeError:
            return
        if is_read:
            raise ValueError(
                f"{self._name} returned a {type(self._source).__name__} that was read before; "
                "return a new one on each call, at its beginning, or what can be iterated again"
            )

    def _check_size(self, batch: Any) -> None:
        """Refuse samples in place of batches; an epoch's last batch may be shorter."""
        if self._is_checked:
            return
        self._is_checked = True
        lengths = set(_lengths(batch))
        if lengths and self._size not in lengths:
            found = " or ".join(map(str, sorted(lengths)))
            raise ValueError(
                f"{self._name} gave a first batch of length {found}; ready batches must have "
                f"{self._size} samples: what a worker takes in one forward pass, by "
                "global_batch_size, micro_batch_size and the number of workers. Put single samples "
                "into a torch.utils.data.IterableDataset, which are collated, or into batches by a "
                "DataLoader"
            )


_END: Any = object()


def _lengths(value: Any) -> Iterator[int]:
    """Yield the lengths that may be a batch's, of tensors and containers at any depth."""
    if isinstance(value, (Tensor, np.ndarray)):
        if value.ndim:
            yield len(value)
    elif isinstance(value, (Mapping, list, tuple)):
        items = list(value.values()) if isinstance(value, Mapping) else list(value)
        if not isinstance(value, Mapping):
            yield len(value)
        for item in items:
            yield from _lengths(item)
