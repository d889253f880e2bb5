"""Training batches of a stream: read once, in order, and kept while they are needed again.

What the probes of a stage have read stays in host memory and is trained on afterwards, so that
the applied run sees the batches of its probes and none is lost. A stage that is applied again,
because its loss diverged, and a run that is continued read the stream again: from where its
``state_dict`` says, or from its beginning, leaving out what was trained on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from torch import Tensor

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.batches import Batches, StepBatches
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.random_streams import Stream, random_states_kept, seed_everything
from ray_autolrs.training.ready_batches import arrays, copied
from ray_autolrs.training.stream_reader import Position, StreamReader, is_stream

logger = logging.getLogger(__name__)


def training_batches(
    task: TrainingTask,
    group: Group,
    *,
    micro_batch_size: int,
    seed: int,
    pin_memory: bool,
) -> Batches:
    """Return a task's training batches, by index or as a stream.

    Raises:
        ValueError: the data are refused.
    """
    data = _train_dataset(task, seed)
    if not is_stream(data):
        return StepBatches(
            task, data, micro_batch_size=micro_batch_size, seed=seed, pin_memory=pin_memory
        )
    if task.loader_workers:
        logger.warning(
            "loader_workers=%d does not load train_dataset(), which is a stream: give a "
            "DataLoader with num_workers",
            task.loader_workers,
        )
    return StreamBatches(task, data, group, micro_batch_size=micro_batch_size, seed=seed)


def _train_dataset(task: TrainingTask, seed: int) -> Any:
    """Ask for the data; what draws its order when it is made draws the same each time.

    A ``StatefulDataLoader`` that shuffles does, and a ``random_split``.
    """
    with random_states_kept(with_cuda=False):
        seed_everything(seed, Stream.DATA)
        return task.train_dataset()


class StreamBatches(Batches):
    """The training batches of a task whose ``train_dataset()`` is a stream.

    Each worker reads a stream of its own, which gives its share: worker r of n has the r-th n-th
    of each step's micro-batches, in the order that they are read.

    Args:
        task: gives the stream.
        data: what ``task.train_dataset()`` has returned.
        group: the workers.
        micro_batch_size: samples in a micro-batch.
        seed: of random numbers that the stream draws.

    Attributes:
        look_back: latest steps whose batches are kept when they have been trained on.
    """

    def __init__(
        self,
        task: TrainingTask,
        data: Any,
        group: Group,
        *,
        micro_batch_size: int,
        seed: int,
    ) -> None:
        self.micro_batches = task.global_batch_size // micro_batch_size
        self.per_step = self.micro_batches // group.size
        self._task = task
        self._group = group
        self._size = micro_batch_size
        self._seed = seed
        self.look_back = 0
        self._reader = StreamReader(task, "train_dataset", data, micro_batch_size)
        self._marks = [Position()]
        self._next_mark = -1
        self._kept: dict[int, Any] = {}
        self._floor = 0
        self._keeps = False
        self._is_compared = group.size == 1

    def micro(self, step: int, micro: int) -> Any:
        assert self.has(micro), "a worker reads its own share only"
        place = step * self.per_step + micro % self.per_step
        self._read_to(place)
        return copied(self._kept[place])

    def has(self, micro: int) -> bool:
        return micro // self.per_step == self._group.rank

    def stream(self, first_step: int, steps: int, micros: range) -> Iterator[list[Any]]:
        for step in range(first_step, first_step + steps):
            if not self._keeps:
                self._drop_before(step)
            batches = [self.micro(step, micro) for micro in micros]
            self._compare_shares(batches)
            yield batches

    def begin(self, first_step: int, end_step: int, *, is_probe: bool) -> None:
        ahead = [kept for place, kept in self._kept.items() if place >= first_step * self.per_step]
        if self._keeps and not is_probe:
            logger.info(
                "%d batches that probes have read and %.3g MB of host memory hold are trained on",
                len(ahead),
                sum(array.nbytes for kept in ahead for array in arrays(kept)) / 1e6,
            )
        self._keeps = is_probe
        self._drop_before(first_step)
        base = self._place_before(first_step)
        oldest = self._latest_mark(base)
        self._marks = [mark for mark in self._marks if mark.place >= oldest.place]
        self._next_mark = self._place_before(end_step)

    def position(self, step: int) -> dict[str, Any]:
        return asdict(self._latest_mark(self._place_before(step)))

    def go_on_from(self, position: dict[str, Any] | None, step: int) -> None:
        knows = position is not None and self._reader.knows_its_state
        self._marks = [Position(**position) if position and knows else Position()]
        # What the task has returned is not read yet.
        self._read_from_mark(step * self.per_step, self._reader.source)

    def _place_before(self, step: int) -> int:
        """Return the first place that is needed once ``step`` steps are trained."""
        return max(0, step - self.look_back) * self.per_step

    def _latest_mark(self, place: int) -> Position:
        return max((m for m in self._marks if m.place <= place), key=lambda mark: mark.place)

    def _drop_before(self, step: int) -> None:
        self._floor = self._place_before(step)
        for place in [place for place in self._kept if place < self._floor]:
            del self._kept[place]

    def _read_to(self, place: int) -> None:
        """Read until the micro-batch at a place is there, and keep what is needed of the rest."""
        if place in self._kept:
            return
        if place < self._reader.place:
            self._read_from_mark(place, _train_dataset(self._task, self._seed))
        floor = max(self._floor, place - self.look_back * self.per_step)
        while (at := self._reader.place) <= place:
            if at == self._next_mark > 0 and self._reader.knows_its_state:
                self._marks += [] if (mark := self._reader.position()) is None else [mark]
            step, local = divmod(at, self.per_step)
            micro = self._group.rank * self.per_step + local
            batch = self._reader.read(self._seed, Stream.DATA, step, micro)
            if batch is None:
                raise ValueError(
                    f"{type(self._task).__name__}.train_dataset() ended after {at} batches of "
                    f"{self._size} samples, in step {step}; give what can be iterated again, or "
                    "train for fewer steps"
                )
            if at >= floor:
                self._kept[at] = batch

    def _read_from_mark(self, place: int, data: Any) -> None:
        """Open the stream anew, at the latest known position before what a place needs."""
        mark = self._latest_mark(max(0, place - self.look_back * self.per_step))
        logger.info(
            "train_dataset() is read on from %s; %d batches are read and left out",
            "its beginning, as it has no state_dict" if mark.state is None else "its state_dict",
            place - mark.place,
        )
        self._kept.clear()
        self._reader = StreamReader(self._task, "train_dataset", data, self._size, mark)

    def _compare_shares(self, batches: list[Any]) -> None:
        """Warn once if all workers read the same; they call it together."""
        if self._is_compared:
            return
        self._is_compared = True
        sums = [
            float(array.double().sum())
            for batch in batches
            for array in arrays(batch)
            if isinstance(array, Tensor)
        ]
        shares = self._group.gather(sums)
        if self._group.rank == 0 and sums and all(share == sums for share in shares):
            logger.warning(
                "all %d workers read the same batches; let train_dataset() give each its share, "
                "by torch.distributed.get_rank() and get_world_size()",
                self._group.size,
            )
