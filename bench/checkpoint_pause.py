"""How long training stands still for a checkpoint, beside a plain copy of the same bytes.

    python -m bench.checkpoint_pause

A model with Adam, 300 MB of state in 450 tensors, is trained in this process and stored within a
stage, as a run does it; the write goes to a local disk from the background thread. Each repetition
takes both times one after the other: how long a checkpoint holds up the training thread, and how
long a copy of the same bytes within host memory takes, flat and tensor by tensor, into memory that
was written before. ``ratio`` is the median of their ratios. ``write`` is the whole of a checkpoint
until it is synced, and ``step`` an optimizer step while nothing, or a checkpoint, is written.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from bench.measurement import Row, options, write_results
from ray_autolrs import Checkpoints, TrainingTask, Validation
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply
from ray_autolrs.cluster.checkpoint_store import CheckpointStore
from ray_autolrs.cluster.checkpoints import StateKeeper
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.segment_run import SegmentRun
from ray_autolrs.training.settings import TrainingSettings
from ray_autolrs.training.worker import Worker

TENSORS = 150
"""Parameters; Adam has two more tensors for each."""


class Wide(TrainingTask):
    """A loss that takes no time, so that a step is Adam's."""

    global_batch_size = 1

    def __init__(self, mb: float) -> None:
        self.size = int(mb * 1e6 / 4 / 3 / TENSORS)

    def build_model(self) -> nn.Module:
        return nn.ParameterList([torch.randn(self.size) for _ in range(TENSORS)])

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=1e-3)

    def train_dataset(self) -> TensorDataset:
        return TensorDataset(torch.ones(1000, 1))

    def val_dataset(self) -> TensorDataset:
        return TensorDataset(torch.ones(1, 1))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        total: Tensor = sum((parameter.sum() for parameter in model.parameters()), torch.zeros(()))
        return total * 1e-6


class Watched:
    """Asks the keeper at each look, and measures beside it.

    Args:
        keeper: stores the state at each look, unless it is still writing.
        worker: what is stored.
        repetitions: checkpoints to take; the first ones, into fresh memory, are not counted.
        warm_up: how many those are.
    """

    def __init__(
        self, keeper: StateKeeper, worker: Worker, repetitions: int, warm_up: int = 2
    ) -> None:
        self.times: dict[str, list[float]] = {}
        self._keeper = keeper
        self._worker = worker
        self._left = repetitions + warm_up
        self._warm_up = warm_up
        self._writer = keeper._writer
        self._last_s = time.perf_counter()
        self._was_writing = False
        self._copies: list[tuple[Tensor, Tensor]] = []

    def look(self, run: SegmentRun, done: int) -> None:
        assert self._writer is not None
        now_s, is_writing = time.perf_counter(), not self._writer.is_idle
        if self._warm_up <= 0 and is_writing == self._was_writing:
            self._note("step while writing" if is_writing else "step", now_s - self._last_s)
        if not is_writing and not self._was_writing and self._left > 0:
            self._left -= 1
            self._warm_up -= 1
            self._measure(run, done)
        self._was_writing = not self._writer.is_idle
        self._last_s = time.perf_counter()

    def _measure(self, run: SegmentRun, done: int) -> None:
        flat_s, tensors_s = self._plain_copies()
        started_s = time.perf_counter()
        self._keeper.look(run, done)
        blocked_s = time.perf_counter() - started_s
        if self._warm_up < 0:
            self._note("plain copy, flat", flat_s)
            self._note("plain copy, tensor by tensor", tensors_s)
            self._note("training stands still", blocked_s)
            self._note("ratio", blocked_s / flat_s)
            self._note("ratio to tensor by tensor", blocked_s / tensors_s)

    def _plain_copies(self) -> tuple[float, float]:
        if not self._copies:
            replica = self._worker.replica
            tensors = [parameter.data for parameter in replica.module.parameters()]
            for state in replica.optimizer.state.values():
                tensors += [value for value in state.values() if value.ndim]
            self._copies = [(tensor, tensor.clone()) for tensor in tensors]
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            self._flat = (flat, flat.clone())
        started_s = time.perf_counter()
        self._flat[1].copy_(self._flat[0])
        flat_s = time.perf_counter() - started_s
        for source, target in self._copies:
            target.copy_(source)
        return flat_s, time.perf_counter() - started_s - flat_s

    def _note(self, what: str, value: float) -> None:
        self.times.setdefault(what, []).append(value)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--mb", type=float, default=300.0, help="size of the state (default: 300)")
    parser.add_argument("--repetitions", type=int, default=9, help="(default: 9)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    settings = {"mb": arguments.mb, "repetitions": arguments.repetitions}
    write_results("checkpoint_pause", settings, rows(**settings))


def rows(mb: float, repetitions: int) -> Iterator[Row]:
    settings = TrainingSettings(
        divergence_check_steps=1, validation=Validation(keep_best=False, probe_samples=1)
    )
    worker = Worker(Wide(mb), settings, Solo(), torch.device("cpu"))
    worker.take_snapshot(0)
    writes: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(RunFolder(folder, "run"), keep=1)
        with StateKeeper(worker, store, Checkpoints(every_steps=1)) as keeper:
            keeper.save_stage(None, is_last=False)
            keeper._times.written = writes.append  # type: ignore[method-assign]
            assert keeper._writer is not None
            keeper._writer._written = writes.append
            keeper._writer.flush()
            watched = Watched(keeper, worker, repetitions)
            worker.keeper = watched
            first = 0
            while watched._left > 0 or not keeper._writer.is_idle:
                worker.run_apply(Apply(1, Segment(0, 49, 1e-4)), lambda steps, loss: None)
                first += 1
    for what, values in watched.times.items():
        is_ratio = what.startswith("ratio")
        yield {
            "what": what,
            "median": round(statistics.median(values) * (1 if is_ratio else 1000), 3),
            "lowest": round(min(values) * (1 if is_ratio else 1000), 3),
            "highest": round(max(values) * (1 if is_ratio else 1000), 3),
            "unit": "" if is_ratio else "ms",
            "number": len(values),
        }
    yield {
        "what": "write, in the background",
        "median": round(1000 * statistics.median(writes), 3),
        "lowest": round(1000 * min(writes), 3),
        "highest": round(1000 * max(writes), 3),
        "unit": "ms",
        "number": len(writes),
    }


if __name__ == "__main__":
    main()
