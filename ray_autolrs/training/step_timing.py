"""How long an optimizer step takes, and how much of it is spent waiting for data."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine, Share

WARM_STEPS = 3
"""Steps before the clock starts: memory is allocated and loader processes start in them."""


@dataclass(frozen=True, slots=True)
class StepTiming:
    """Measured steps of one worker's share of the batch.

    Attributes:
        steps: how many were measured.
        wall_s: seconds that they took.
        data_wait_s: of those, seconds spent waiting for batches.
    """

    steps: int
    wall_s: float
    data_wait_s: float

    @property
    def steps_per_s(self) -> float:
        """Optimizer steps, that is global batches, in a second."""
        return self.steps / self.wall_s

    @property
    def data_wait_fraction(self) -> float:
        """Part of a step that is spent waiting for data, from 0 to 1."""
        return self.data_wait_s / self.wall_s


def time_steps(
    task: TrainingTask,
    *,
    seed: int,
    num_workers: int,
    device: torch.device,
    max_steps: int = 30,
    max_s: float = 10.0,
) -> StepTiming:
    """Train a copy of the model for a few steps, on what one of ``num_workers`` workers does.

    What the workers exchange, and that they may share their cores, is not part of it. The LR is
    0. The copy is dropped; the global random states stay changed, which every step sets anew.

    Args:
        task: what to train.
        seed: of the model and the batches.
        num_workers: workers that share the global batch.
        device: where to train.
        max_steps: steps to measure.
        max_s: seconds after which no further step is begun.

    Raises:
        ValueError: the task's sizes, data or optimizer are refused.
    """
    engine = Engine(task, Solo(), device, seed=seed, num_workers=num_workers)
    share = Share(Solo(), range(engine.batches.micro_batches // num_workers))
    losses = engine.loss_table(WARM_STEPS + max_steps)
    steps = 0
    started_s = waited_s = wall_s = 0.0
    for done in engine.steps(0, len(losses), lambda step: 0.0, losses, share=share):
        losses[done - 1].sum().item()  # waits for the device
        if done == WARM_STEPS:
            started_s, waited_s = time.perf_counter(), engine.data_wait_s
        steps = done - WARM_STEPS
        wall_s = time.perf_counter() - started_s
        if steps > 0 and wall_s > max_s:
            break
    return StepTiming(steps, wall_s, engine.data_wait_s - waited_s)
