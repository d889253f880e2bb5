"""What a run spends on all that is neither a step nor an evaluation, over its wall time.

    python -m bench.stage_overhead

A whole run in this process, without Ray's messages: stages of 1000 steps that wait 10 ms each in
place of an accelerator's work. What remains is deciding, snapshots and their restoring, looks at
the losses, the log, and checkpoints to a local disk.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from ray.train import RunConfig, ScalingConfig
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from bench.measurement import Row, options, write_results
from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, Stages, TrainingTask
from ray_autolrs.training.engine import Engine
from ray_autolrs.training.evaluation import Evaluation


class Waiting(TrainingTask):
    """A network of some size whose steps wait."""

    global_batch_size = 16

    def __init__(self, wait_s: float, width: int) -> None:
        self.wait_s, self.width = wait_s, width

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(16, self.width), nn.Tanh(), nn.Linear(self.width, 1))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def train_dataset(self) -> TensorDataset:
        x = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
        return TensorDataset(x, x.sum(dim=1, keepdim=True))

    def val_dataset(self) -> TensorDataset:
        return self.train_dataset()

    def loss(self, model: nn.Module, batch: list[Tensor]) -> Tensor:
        if torch.is_grad_enabled():
            time.sleep(self.wait_s)
        return nn.functional.mse_loss(model(batch[0]), batch[1])


class Watch:
    """Adds up the time that steps and evaluations take."""

    def __init__(self) -> None:
        self.steps = 0
        self.spent_s = 0.0

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Watch all that is done within."""
        steps, run = Engine.steps, Evaluation.run

        def watched(engine: Engine, *args: Any, **options: Any) -> Iterator[int]:
            taken = steps(engine, *args, **options)
            while True:
                started_s = time.perf_counter()
                done = next(taken, None)
                self.spent_s += time.perf_counter() - started_s
                if done is None:
                    return
                self.steps += 1
                yield done

        def evaluated(evaluation: Evaluation, *args: Any, **options: Any) -> dict[str, float]:
            started_s = time.perf_counter()
            try:
                return run(evaluation, *args, **options)
            finally:
                self.spent_s += time.perf_counter() - started_s

        with (
            mock.patch.object(Engine, "steps", watched),
            mock.patch.object(Evaluation, "run", evaluated),
        ):
            yield


def measure(stages: int, steps: int, wait_s: float, width: int) -> Iterator[Row]:
    """Yield the part of a run, with the default's search and with the paper's."""
    total, interval = stages * steps, (1e-3, 0.3)
    plan = Stages(first_steps=steps, longest_steps=steps)
    configs = {
        "default": AutoLRSConfig(total_steps=total, lr=interval),
        "paper": AutoLRSConfig.paper(total, interval, stages=plan),
    }
    for name, config in configs.items():
        watch = Watch()
        with tempfile.TemporaryDirectory() as folder, watch.on():
            trainer = AutoLRSTrainer(
                Waiting(wait_s, width),
                config,
                scaling_config=ScalingConfig(num_workers=0),
                run_config=RunConfig(name="run", storage_path=folder),
            )
            started_s = time.perf_counter()
            trainer.fit()
            wall_s = time.perf_counter() - started_s
        yield {
            "search": name,
            "steps": watch.steps,
            "wall, s": wall_s,
            "neither step nor evaluation, s": wall_s - watch.spent_s,
            "part": 1 - watch.spent_s / wall_s,
        }


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1000, help="of a stage")
    parser.add_argument("--wait-s", type=float, default=0.010)
    parser.add_argument("--width", type=int, default=4096)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    logger = logging.getLogger("ray_autolrs")
    level = logger.level
    logger.setLevel(logging.WARNING)
    rows = measure(arguments.stages, arguments.steps, arguments.wait_s, arguments.width)
    try:
        write_results("stage_overhead", vars(arguments), rows)  # It measures row by row.
    finally:
        logger.setLevel(level)


if __name__ == "__main__":
    main()
