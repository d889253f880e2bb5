"""A run with one LR and no search, to compare a job's run with."""

from __future__ import annotations

import math

import torch
from torch import nn

from ray_autolrs.algorithm.schedules.run_shapes import Constant
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.settings import TrainingSettings
from ray_autolrs.training.worker import Worker


def fit_fixed(
    task: TrainingTask, config: AutoLRSConfig, lr: float, device: torch.device
) -> tuple[nn.Module, dict[str, float]]:
    """Train with one LR in this process, after the run's warm-up, and without averaging.

    Returns:
        The trained model, and the last validation's means; a loss that is not finite ends the
        training early.
    """
    batch, total = task.global_batch_size, config.total_steps
    assert total is not None, config
    warmup = config.warmup.resolve(total, is_averaged=config.averaging is not None)
    assert warmup.steps is not None, warmup
    assert warmup.power is not None, warmup
    shape = Constant().over(0, total, warmup_steps=warmup.steps, warmup_power=warmup.power)
    settings = TrainingSettings(
        seed=config.seed,
        validation=config.validation.resolve(batch),
        divergence_check_steps=config.divergence_check_steps,
    )
    worker = Worker(task, settings, Solo(), device)
    worker.take_snapshot(0)
    worker.check_first_loss()
    done = worker.run_apply(Apply(1, Segment(0, total - 1, lr, shape)), lambda steps, loss: None)
    if done.diverged:
        return worker.replica.module, {"loss": math.nan}
    return worker.replica.module, {name: value for _, name, value in done.evaluations}
