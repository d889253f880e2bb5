"""The most memory that a run holds, in copies of the model's parameters, beside plain loops.

    python -m bench.memory

On a CPU the bytes of all tensors that are alive are counted, on a GPU the allocator tells. The
model is wide and its batches are small, so that activations count for little. The run has two
stages of three probes each, keeps the ends of two, and validates at the average.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import schedulefree
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset

from bench.measurement import Row, options, write_results
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply, Probe
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.settings import TrainingSettings, Validation
from ray_autolrs.training.worker import Worker

BATCH, STEPS = 4, 10


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operations make, until they are freed.

    Attributes:
        peak: the most bytes at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._live = 0
        self._known: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if self._known.get(storage._cdata) is storage:
            return
        size = storage.nbytes()
        self._known[storage._cdata] = storage
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self._live -= size


class Wide(TrainingTask):
    """A network of one hidden layer of ``width`` squared weights."""

    global_batch_size = BATCH

    def __init__(self, width: int) -> None:
        self.width = width

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(self.width, self.width), nn.Linear(self.width, 1))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3)

    def train_dataset(self) -> TensorDataset:
        return TensorDataset(torch.randn(2 * BATCH, self.width))

    def val_dataset(self) -> TensorDataset:
        return self.train_dataset()

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        loss: Tensor = model(batch[0]).square().mean()
        return loss


class WideSGD(Wide):
    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


def loop(task: Wide, device: torch.device, build: Callable[[Any], Any] | None = None) -> None:
    """Take steps in a hand-written loop, and look at the average where there is one."""
    model = task.build_model().to(device)
    optimizer: Any = build(model.parameters()) if build else task.build_optimizer(model)
    if hasattr(optimizer, "train"):
        optimizer.train()
    batch = [tensor.to(device) for tensor in task.train_dataset()[:BATCH]]
    for _ in range(STEPS):
        optimizer.zero_grad()
        task.loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if hasattr(optimizer, "eval"):
        optimizer.eval()
        optimizer.train()


def run(task: Wide, device: torch.device, *, is_averaged: bool) -> None:
    averaging = ScheduleFreeAverage(momentum=0.9) if is_averaged else None
    validation = Validation(keep_best=False, probe_samples=BATCH)
    settings = TrainingSettings(averaging=averaging, validation=validation)
    worker = Worker(task, settings, Solo(), device)
    worker.take_snapshot(0)
    for stage in range(2):
        first = stage * STEPS
        for index in range(3):
            segment = Segment(first, first + STEPS // 2 - 1, 1e-3)
            worker.run_probe(
                Probe(stage + 1, index, segment, evals=1, may_go_on=True, best=0), lambda *_: None
            )
        worker.run_apply(Apply(stage + 1, Segment(first, first + STEPS - 1, 1e-3)), lambda *_: None)
        worker.take_snapshot(first + STEPS)


def peak_copies(action: Callable[[], None], device: torch.device, parameter_bytes: int) -> float:
    """Return the most memory that an action holds, in copies of the parameters."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        action()
        return float(torch.cuda.max_memory_allocated(device)) / parameter_bytes
    with LiveBytes() as counted:
        action()
    return float(counted.peak) / parameter_bytes


def measure(width: int, device: torch.device) -> Iterator[Row]:
    tasks: dict[str, Wide] = {"AdamW": Wide(width), "SGD": WideSGD(width)}
    parameter_bytes = sum(p.nbytes for p in tasks["SGD"].build_model().parameters())
    package = schedulefree.AdamWScheduleFree
    actions: dict[str, Callable[[], None]] = {
        "loop, AdamW": lambda: loop(tasks["AdamW"], device),
        "loop, schedulefree's AdamW": lambda: loop(
            tasks["AdamW"], device, lambda parameters: package(parameters, lr=1e-3)
        ),
        "loop, SGD": lambda: loop(tasks["SGD"], device),
        "run, AdamW": lambda: run(tasks["AdamW"], device, is_averaged=False),
        "run, AdamW, averaged": lambda: run(tasks["AdamW"], device, is_averaged=True),
        "run, SGD, averaged": lambda: run(tasks["SGD"], device, is_averaged=True),
    }
    for what, action in actions.items():
        copies = peak_copies(action, device, parameter_bytes)
        yield {"what": what, "copies of the parameters": round(copies, 2)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--width", type=int, default=1000, help="parameters are its square")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)
    torch.manual_seed(0)
    rows = measure(arguments.width, torch.device(arguments.device))
    write_results("memory", vars(arguments), rows)


if __name__ == "__main__":
    main()
