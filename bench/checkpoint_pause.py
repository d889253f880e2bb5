"""How long training stands still for a checkpoint, beside a plain copy of the same bytes.

    python -m bench.checkpoint_pause

A model with Adam, 300 MB of state in 450 tensors, is trained in this process and stored within a
stage, as a run does it; the write goes to a local disk from the background thread. Each repetition
takes both times one after the other: how long a checkpoint holds up the training thread, and how
long a copy of the same bytes within host memory takes, into memory that was written before.
``ratio`` is that of the two; on a machine that others use, that of the thread's CPU times is
steadier. ``write`` is a checkpoint until it is synced, and a step is an optimizer's.
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
from ray_autolrs.cluster.checkpoint_store import CheckpointStore, Place
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


class TimedStore(CheckpointStore):
    """Notes how long each checkpoint takes to be written."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder, keep=1)
        self.times_s: list[float] = []

    def write(self, place: Place, files: Any, told: Any, staged: Any = None) -> None:
        started_s = time.perf_counter()
        super().write(place, files, told, staged)
        self.times_s.append(time.perf_counter() - started_s)


class Timer:
    """Times of this thread: by the clock, and on a CPU."""

    def __init__(self) -> None:
        self._started = (time.perf_counter(), time.thread_time())

    def stop(self) -> tuple[float, float]:
        wall_s, cpu_s = self._started
        return time.perf_counter() - wall_s, time.thread_time() - cpu_s


class Watched:
    """Asks the keeper at each look, and measures beside it.

    Args:
        keeper: stores the state at each look, unless it is still writing.
        worker: what is stored.
        repetitions: checkpoints to measure, after some that write to fresh memory.
    """

    def __init__(self, keeper: StateKeeper, worker: Worker, repetitions: int) -> None:
        assert keeper.writer is not None
        self.values: dict[str, list[float]] = {}
        self.left = repetitions
        self._warm_up = 2
        self._keeper = keeper
        self._writer = keeper.writer
        self._timer = Timer()
        self._was_writing = True
        self._copies = _copies(worker)

    def look(self, run: SegmentRun, done: int) -> None:
        step_s, _ = self._timer.stop()
        is_writing = not self._writer.is_idle
        if is_writing == self._was_writing and self._warm_up == 0:
            self._note(
                f"step while {'a checkpoint' if is_writing else 'nothing'} is written", step_s
            )
        # A step without a write between two checkpoints.
        if not is_writing and not self._was_writing and self.left > 0:
            self._measure(run, done)
        self._was_writing = is_writing
        self._timer = Timer()

    def _measure(self, run: SegmentRun, done: int) -> None:
        timer = Timer()
        for source, target in self._copies:
            target.copy_(source)
        copy_s, copy_cpu_s = timer.stop()
        timer = Timer()
        self._keeper.look(run, done)
        pause_s, pause_cpu_s = timer.stop()
        if self._warm_up > 0:
            self._warm_up -= 1
            return
        self.left -= 1
        self._note("plain copy", copy_s)
        self._note("training stands still", pause_s)
        self._note("ratio", pause_s / copy_s)
        self._note("ratio of the thread's CPU times", pause_cpu_s / copy_cpu_s)

    def _note(self, what: str, value: float) -> None:
        self.values.setdefault(what, []).append(value)


def _copies(worker: Worker) -> list[tuple[Tensor, Tensor]]:
    """Return all tensors of a worker's state, and as much memory that was written to."""
    replica = worker.replica
    tensors = [parameter.data for parameter in replica.module.parameters()]
    for parameter in replica.module.parameters():
        tensors += [torch.ones_like(parameter.data) for _ in range(2)]
    return [(tensor, tensor.clone()) for tensor in tensors]


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--mb", type=float, default=300.0, help="size of the state (default: 300)")
    parser.add_argument("--repetitions", type=int, default=15, help="(default: 15)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    settings = {"mb": arguments.mb, "repetitions": arguments.repetitions}
    write_results("checkpoint_pause", settings, rows(**settings))


def rows(mb: float, repetitions: int) -> Iterator[Row]:
    """Yield a row for each thing that is measured."""
    validation = Validation(keep_best=False, probe_samples=1)
    settings = TrainingSettings(divergence_check_steps=1, validation=validation)
    worker = Worker(Wide(mb), settings, Solo(), torch.device("cpu"))
    worker.take_snapshot(0)
    with tempfile.TemporaryDirectory() as folder:
        store = TimedStore(RunFolder(folder, "run"))
        with StateKeeper(worker, store, Checkpoints(every_steps=1)) as keeper:
            keeper.save_stage(None, is_last=False)
            worker.keeper = watched = Watched(keeper, worker, repetitions)
            while watched.left > 0:
                worker.run_apply(Apply(1, Segment(0, 49, 1e-4)), lambda steps, loss: None)
    values = watched.values | {"write, in the background": store.times_s[1:]}
    for what, measured in values.items():
        unit, factor = ("", 1) if what.startswith("ratio") else ("ms", 1000)
        found = {
            "median": statistics.median(measured),
            "lowest": min(measured),
            "highest": max(measured),
        }
        rounded = {name: round(value * factor, 2) for name, value in found.items()}
        yield {"what": what, **rounded, "unit": unit, "number": len(measured)}


if __name__ == "__main__":
    main()
