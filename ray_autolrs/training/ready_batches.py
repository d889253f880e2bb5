"""Ready batches of a user's own loop: read once, in order, and given to every probe anew."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ray_autolrs.training.batches import Batches, to_device
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.random_streams import OwnRandomStates

HOST = torch.device("cpu")


class Tape:
    """Batches that are read once and kept in host memory.

    They are read with the random numbers that the loop would have read them with, whatever
    probes draw in between. A probe gets copies: a loss may change its batch.

    Args:
        source: of batches.
        repeats: whether a source that can be iterated again begins anew at its end, as the next
            epoch would; an iterator ends.

    Raises:
        ValueError: the source cannot be iterated.
    """

    def __init__(self, source: Iterable[Any], *, repeats: bool = True) -> None:
        if not hasattr(source, "__iter__"):
            raise ValueError(
                f"batches of type {type(source).__name__} cannot be iterated; give a DataLoader or "
                "another iterable of batches"
            )
        source = _apart(source)
        self._source = source
        self._repeats = repeats
        self._reading = OwnRandomStates()
        with self._reading:
            self._rest = iter(source)
        self._kept: list[Any] = []
        self._devices: list[torch.device] = []

    def __len__(self) -> int:
        return len(self._kept)

    def holds(self, count: int) -> bool:
        """Read until there are ``count`` batches, and return whether there are."""
        with self._reading:
            while len(self._kept) < count:
                try:
                    batch = next(self._rest)
                except StopIteration:
                    if not (self._kept and self._repeats):  # Nothing at all stays nothing.
                        return False
                    again = iter(self._source)
                    if again is self._source or (batch := next(again, None)) is None:
                        return False
                    self._rest = again
                self._devices.append(_device_of(batch))
                self._kept.append(to_device(batch, HOST))
        return True

    def require(self, count: int, group: Group) -> None:
        """Read until there are ``count`` batches; all workers of a group call it together.

        Raises:
            ValueError: on every worker, if the batches of one end before.
        """
        lacking = torch.tensor(0 if self.holds(count) else 1)
        group.sum_(lacking)
        if lacking:
            raise ValueError(
                f"train_batches ended after {len(self)} batches, and the search needs {count} on "
                "each process; give more, or what can be iterated again, or search with shorter "
                "probes: search=Bracket(probe_steps=...)"
            )

    def read_samples(self, samples: int) -> int:
        """Read batches until they have so many samples or end, and return their number."""
        count = read = 0
        while read < samples and self.holds(count + 1):
            read += self.samples(count)
            count += 1
        return count

    def copy(self, place: int) -> Any:
        """Return a copy of a batch, on the device that the source gave it on."""
        return to_device(copied(self._kept[place]), self._devices[place])

    def handed_back(self) -> list[Any]:
        """Return the batches that were read, as the source gave them."""
        return [
            to_device(batch, device)
            for batch, device in zip(self._kept, self._devices, strict=True)
        ]

    def and_rest(self) -> Iterator[Any]:
        """Return the batches that were read and then those that the source would give next."""
        return itertools.chain(self.handed_back(), self._rest)

    def samples(self, place: int) -> int:
        """Return the samples in a batch: the length of its first tensor, or 1 without one."""
        sizes = [len(tensor) for tensor in arrays(self._kept[place]) if tensor.ndim]
        return sizes[0] if sizes else 1

    def size_bytes(self, count: int | None = None) -> int:
        """Return the bytes of the first ``count`` batches, or of all."""
        kept = (array for batch in self._kept[:count] for array in arrays(batch))
        return sum(int(array.nbytes) for array in kept)


class ReadyBatches(Batches):
    """The training batches of probes: a tape's, from a place on.

    Args:
        tape: this worker's batches, one for each of its micro-batches.
        first: place of the first one.
        per_step: micro-batches of one worker in a step.
        group: the workers.
    """

    def __init__(self, tape: Tape, *, first: int, per_step: int, group: Group) -> None:
        self.micro_batches = per_step * group.size
        self.per_step = per_step
        self._tape = tape
        self._first = first
        self._group = group
        self._first_micro = group.rank * per_step

    def micro(self, step: int, micro: int) -> Any:
        local = micro - self._first_micro
        assert 0 <= local < self.per_step, "a worker has its own batches only"
        return self._tape.copy(self._first + step * self.per_step + local)

    def stream(self, first_step: int, steps: int, micros: range) -> Iterator[list[Any]]:
        self._tape.require(self._first + (first_step + steps) * self.per_step, self._group)
        for step in range(first_step, first_step + steps):
            yield [self.micro(step, micro) for micro in micros]


class ReadyValidation:
    """The validation batches of all workers, each with its own.

    Workers may have unequal numbers: a worker that lacks one repeats its last, which then counts
    for nothing, because a forward pass may wait for the others.

    Args:
        tape: holds this worker's.
        count: how many they are, from the tape's start.
        group: the workers.

    Raises:
        ValueError: a worker has none; all workers raise it.
    """

    def __init__(self, tape: Tape, count: int, group: Group) -> None:
        counts = torch.zeros(group.size, dtype=torch.int64)
        counts[group.rank] = count
        group.sum_(counts)
        if not counts.all():
            raise ValueError("val_batches gave no batch; give at least one on every worker")
        sizes = torch.zeros(int(counts.max()), group.size, dtype=torch.int64)
        sizes[:count, group.rank] = torch.tensor([tape.samples(place) for place in range(count)])
        group.sum_(sizes)
        self.sizes: list[int] = sizes.flatten().tolist()
        self._tape = tape
        self._count = count
        self._group = group

    def __getitem__(self, place: int) -> Any:
        return self._tape.copy(min(place // self._group.size, self._count - 1))


class NoValidation:
    """For steps that are taken in the user's own way, without a loss function."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __getitem__(self, place: int) -> Any:
        raise AssertionError("there is no validation")


def copied(value: Any) -> Any:
    """Return a copy of a batch; of a tensor that is a part of another, only that part."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, MutableMapping):
        new = copy.copy(value)
        new.update({key: copied(item) for key, item in value.items()})
        return new
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(copied(item) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item) for item in cast("Sequence[Any]", value))
    return copy.deepcopy(value)


def arrays(value: Any) -> Iterator[Tensor | np.ndarray[Any, Any]]:
    """Yield the tensors and NumPy arrays of a batch, in their order."""
    if isinstance(value, (Tensor, np.ndarray)):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from arrays(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from arrays(item)
    elif hasattr(value, "__dict__"):
        yield from arrays(vars(value))


def _apart(source: Any) -> Any:
    """Return what gives a loader's batches without moving the loader.

    One with a state, such as a ``StatefulDataLoader``, may have been told to begin in the middle
    of an epoch: the loop is still to begin there. A stream's samples are gone once they are read,
    so that its loader has to tell of those.
    """
    is_map_style = isinstance(source, DataLoader) and not isinstance(
        source.dataset, IterableDataset
    )
    return copy.copy(source) if is_map_style and hasattr(source, "load_state_dict") else source


def _device_of(batch: Any) -> torch.device:
    for array in arrays(batch):
        if isinstance(array, Tensor):
            return array.device
    return HOST
