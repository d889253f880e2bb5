"""Capturing and restoring the training state, over a plain copy of the same bytes, warm.

    python -m bench.snapshot

A model of many tensors with the default's average around AdamW, in host memory or on the device.
The rows of several sizes tell whether the ratio grows. On a CPU both places are the same memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from bench.measurement import Row, options, write_results
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.memory import state_bytes
from ray_autolrs.training.replica import Replica
from ray_autolrs.training.snapshot import Snapshot

LAYERS = 24
COPIES = 3
"""Of the parameters in the state: weights, the average's and Adam's squares."""


class Deep(TrainingTask):
    """Linear layers of one width."""

    global_batch_size = 4

    def __init__(self, width: int) -> None:
        self.width = width

    def build_model(self) -> nn.Module:
        return nn.Sequential(*(nn.Linear(self.width, self.width) for _ in range(LAYERS)))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3)

    def train_dataset(self) -> TensorDataset:
        return TensorDataset(torch.randn(8, self.width))

    def val_dataset(self) -> TensorDataset:
        return self.train_dataset()

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        loss: Tensor = model(batch[0]).square().mean()
        return loss


def median_ratio(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int, device: torch.device
) -> float:
    """Return the median of the time of one action over the other's, taken in turn and warm."""

    def seconds(action: Callable[[], object]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        started_s = clock()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - started_s

    ratios = []
    for number in range(rounds + 2):
        pair = (ours, theirs) if number % 2 else (theirs, ours)
        times = {action: seconds(action) for action in pair}
        ratios.append(times[ours] / times[theirs])
    return statistics.median(ratios[2:])


def measure(megabytes: Sequence[int], rounds: int, device: torch.device) -> Iterator[Row]:
    """Yield the ratios of each size of the state, in megabytes."""
    places = ("device", "host") if device.type == "cuda" else ("host",)
    for size in megabytes:
        width = max(4, int((size * 1e6 / 4 / COPIES / LAYERS) ** 0.5))
        averaging = ScheduleFreeAverage(momentum=0.9)
        replica = Replica(Deep(width), Solo(), device, seed=0, averaging=averaging)
        batch = replica.task.collate([replica.task.train_dataset()[place] for place in range(4)])  # type: ignore[index]
        losses = torch.zeros(1, dtype=torch.float64, device=device)
        replica.take_step(0, [batch], range(1), 1e-3, losses)
        replica.clear_gradients()
        for place in places:
            yield _row(replica, place, rounds, device)


def _row(replica: Replica, place: str, rounds: int, device: torch.device) -> Row:
    snapshot = Snapshot(in_host_memory=place == "host")
    snapshot.capture(replica, 1)
    words = state_bytes(replica) // 4
    at = device if place == "device" else torch.device("cpu")
    held = torch.zeros(words, device=at, pin_memory=at.type != device.type)
    plain = torch.zeros(words, device=device)
    capture = median_ratio(
        lambda: snapshot.capture(replica, 1), lambda: held.copy_(plain), rounds, device
    )
    restore = median_ratio(
        lambda: snapshot.restore(replica), lambda: plain.copy_(held), rounds, device
    )
    return {
        "place": place,
        "MB": round(4 * words / 1e6, 1),
        "capture / copy": capture,
        "restore / copy": restore,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = measure(arguments.megabytes, arguments.rounds, torch.device(arguments.device))
    write_results("snapshot", vars(arguments), rows)


if __name__ == "__main__":
    main()
