"""How long an optimizer step takes, and how much of it is spent waiting for data."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.replica import Replica

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
    config: AutoLRSConfig,
    *,
    num_workers: int,
    device: torch.device,
    max_steps: int = 30,
    max_s: float = 10.0,
) -> StepTiming:
    """Train a copy of the model for a few steps, on what one of ``num_workers`` workers does.

    What the workers exchange, and that they may share their cores, is not part of it. The copy
    is dropped; the global random states stay changed, which every step of a run sets anew.

    Args:
        task: what to train.
        config: gives the seed, and the LR: the lower end of its interval.
        num_workers: workers that share the global batch.
        device: where to train.
        max_steps: steps to measure.
        max_s: seconds after which no further step is begun.

    Raises:
        ValueError: the task's sizes, data or optimizer are refused.
    """
    micro_batch_size = task.resolved_micro_batch_size(num_workers)
    batches = StepBatches(
        task,
        micro_batch_size=micro_batch_size,
        seed=config.seed,
        pin_memory=device.type == "cuda",
    )
    micros = range(batches.micro_batches // num_workers)
    replica = Replica(task, Solo(), device, config.seed)
    losses = torch.zeros(batches.micro_batches, dtype=torch.float64, device=device)
    stream = batches.stream(0, WARM_STEPS + max_steps, micros)
    steps = 0
    started = 0.0
    wall_s = data_wait_s = 0.0
    for step in range(WARM_STEPS + max_steps):
        if step == WARM_STEPS:
            started = time.perf_counter()
        asked = time.perf_counter()
        batch = next(stream)
        waited = time.perf_counter() - asked
        replica.take_step(step, batch, micros, 0.0, losses)
        losses.sum().item()  # waits for the device
        if step >= WARM_STEPS:
            steps += 1
            data_wait_s += waited
            wall_s = time.perf_counter() - started
            if wall_s > max_s:
                break
    return StepTiming(steps, wall_s, data_wait_s)
