"""The time of a step, beside the same model in a hand-written loop.

    python -m bench.steps

Rounds of a few steps are taken in turn, so that both see the same disturbances, and each round
gives one ratio; the medians are told. One process, batches from memory, no compilation. On a CPU
the process's own time is taken, which other programs lengthen less than the clock's.

"Default" is Schedule-Free around AdamW with the way of the weights followed, over a loop with the
``schedulefree`` package's AdamW; both without weight decay, which is a pass over the weights more.
A probe and a stage are whole, with their looks at the losses and the same evaluation at the end.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import schedulefree
import torch
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from bench.measurement import Row, options, write_results
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply, Probe
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine
from ray_autolrs.training.settings import TrainingSettings, Validation
from ray_autolrs.training.worker import Worker

LR = 1e-3
SAMPLES = 64


class Transformer(TrainingTask):
    """Two encoder layers on random tokens: many small parameters beside a few large ones."""

    global_batch_size = 16

    def __init__(self, width: int) -> None:
        self.width = width

    def build_model(self) -> nn.Module:
        layer = nn.TransformerEncoderLayer(self.width, 4, 4 * self.width, 0.0, batch_first=True)
        return nn.Sequential(
            nn.Embedding(100, self.width),
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(self.width, 100),
        )

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0)

    def train_dataset(self) -> TensorDataset:
        tokens = torch.randint(100, (512, 16), generator=torch.Generator().manual_seed(0))
        return TensorDataset(tokens)

    def val_dataset(self) -> Subset[Any]:
        return Subset(self.train_dataset(), range(SAMPLES))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        tokens = batch[0]
        return nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())


def by_hand(task: Transformer, device: torch.device, build: Callable[[Any], Any]) -> Iterator[None]:
    """Take a step each time that it is asked, from a plain loop's own loader."""
    model = task.build_model().to(device)
    optimizer = build(model.parameters())
    if hasattr(optimizer, "train"):
        optimizer.train()
    dataset = task.train_dataset()
    for step in itertools.count():
        order = [(step * task.global_batch_size + n) % len(dataset) for n in range(16)]
        batch = [tensor.to(device) for tensor in task.collate([dataset[n] for n in order])]
        optimizer.zero_grad()
        task.loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


def by_engine(task: Transformer, device: torch.device, *, is_averaged: bool) -> Iterator[None]:
    """Take a step each time that it is asked, as probes and stages take them."""
    averaging = ScheduleFreeAverage(momentum=0.9) if is_averaged else None
    engine = Engine(task, Solo(), device, seed=0, averaging=averaging, follows_path=is_averaged)
    losses = engine.loss_table(1)
    for step in itertools.count():
        yield from (None for _ in engine.steps(step, 1, lambda _: LR, losses))


def by_worker(
    worker: Worker, steps: int, commands: Callable[[int, Segment], Probe | Apply]
) -> Iterator[None]:
    """Run a probe or a stage of ``steps`` steps each time that it is asked."""
    for number in itertools.count():
        command = commands(number, Segment(0, steps - 1, LR))
        if isinstance(command, Probe):
            worker.run_probe(command, lambda *_: None)
        else:
            worker.run_apply(command, lambda *_: None)
        yield


def ratio(ours: Iterator[None], theirs: Iterator[None], rounds: int, steps: int) -> list[float]:
    """Return the median time of our steps over theirs, and the quartiles."""
    ratios = []
    for number in range(rounds + 1):
        pair = [ours, theirs] if number % 2 else [theirs, ours]
        times = {id(stream): _seconds(stream, steps) for stream in pair}
        ratios.append(times[id(ours)] / times[id(theirs)])
    low, middle, high = statistics.quantiles(ratios[1:], n=4)  # the first one warms up
    return [middle, low, high]


def _seconds(stream: Iterator[None], steps: int) -> float:
    is_on_gpu = torch.cuda.is_available()
    clock = time.perf_counter if is_on_gpu else time.process_time
    started_s = clock()
    for _ in range(steps):
        next(stream)
    if is_on_gpu:
        torch.cuda.synchronize()
    return clock() - started_s


def measure(width: int, rounds: int, steps: int, device: torch.device) -> Iterator[Row]:
    task = Transformer(width)
    package = schedulefree.AdamWScheduleFree
    settings = TrainingSettings(
        averaging=ScheduleFreeAverage(momentum=0.9),
        validation=Validation(keep_best=False, probe_samples=SAMPLES),
        follows_path=True,
    )
    worker = Worker(task, settings, Solo(), device)
    worker.take_snapshot(0)
    pairs = {
        "no average, over AdamW": (
            by_engine(task, device, is_averaged=False),
            by_hand(task, device, lambda ps: torch.optim.AdamW(ps, lr=LR, weight_decay=0)),
            steps,
        ),
        "default, over schedulefree's AdamW": (
            by_engine(task, device, is_averaged=True),
            by_hand(task, device, lambda parameters: package(parameters, lr=LR)),
            steps,
        ),
        "a probe's, over a stage's": (
            by_worker(worker, 4 * steps, lambda number, it: Probe(1, number, it, evals=1)),
            by_worker(worker, 4 * steps, lambda _, it: Apply(1, it)),
            1,
        ),
    }
    for what, (ours, theirs, taken) in pairs.items():
        middle, low, high = ratio(ours, theirs, rounds, taken)
        yield {"step": what, "ratio": middle, "from": low, "to": high}


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=5, help="in a round")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    rows = measure(arguments.width, arguments.rounds, arguments.steps, device)
    write_results("steps", vars(arguments), rows)


if __name__ == "__main__":
    main()
