"""``ray-autolrs range-test``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ray_autolrs.commands.command import Command, as_usage_errors
from ray_autolrs.commands.named import load_task


@dataclass(frozen=True)
class RangeTest(Command):
    """Find the interval of learning rates worth searching, with one short run in this process.

    For example:
        ray-autolrs range-test quickstart:Digits
        ray-autolrs range-test quickstart:Digits --steps 200 --plot range.png
    """

    task: tyro.conf.Positional[str]
    """MODULE:TASK, as for train."""

    lr_start: float = 1e-7
    """LR of the first step."""

    lr_end: float = 10.0
    """LR of the last step, if the test gets there."""

    steps: int = 100
    """Optimizer steps from the first LR to the last; at least 20."""

    seed: int = 0
    """Seeds the model, the batches and the random numbers."""

    device: str | None = None
    """Where the model lives; by default a GPU if there is one."""

    plot: Path | None = None
    """Image to write: losses over LRs, with the interval. Needs the extra 'plot'."""

    def run(self) -> None:
        import torch

        from ray_autolrs.training.lr_sweep import lr_range_test

        with as_usage_errors():
            task = load_task(self.task)
            device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        result = lr_range_test(
            task,
            lr_start=self.lr_start,
            lr_end=self.lr_end,
            steps=self.steps,
            seed=self.seed,
            device=device,
        )
        print(
            f"interval: {result.lr_min:.4g} to {result.lr_max:.4g}, after {result.spent_steps} "
            f"steps, ended by {result.ending}, read off {result.read_by}"
        )
        if self.plot is not None:
            with as_usage_errors():
                result.plot(self.plot)
            print(f"written: {self.plot}")
