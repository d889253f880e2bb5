"""A plain loop on the digits, and what is to be found in it: for tests of ``find_lr``."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import Probe, Ready
from ray_autolrs.algorithm.stages.phases import Applying, Probing, RunState
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.batches import StepBatches, validation_subset
from ray_autolrs.training.collectives import Group, Solo
from ray_autolrs.training.evaluation import validation_batches
from ray_autolrs.training.find_lr import find_lr
from ray_autolrs.training.found_lr import FoundLR
from ray_autolrs.training.random_streams import Stream, seed_everything
from ray_autolrs.training.worker import Worker
from tests.digits_task import DigitsTask
from tests.training.toy import CPU, silent

STEPS = 600


@dataclass
class Loop:
    """A user's loop that trains what a task trains, on the batches that a run would read.

    Attributes:
        task: says what.
        rank: of this process.
        workers: their number.
    """

    task: TrainingTask = field(default_factory=DigitsTask)
    rank: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        self.micro_batch = self.task.resolved_micro_batch_size(self.workers)
        self.accumulation = self.task.global_batch_size // self.micro_batch // self.workers
        seed_everything(0, Stream.BUILD)
        self.model: Any = self.task.build_model()
        self.optimizer: Any = self.task.build_optimizer(self.model)
        self.read = 0
        self.val_batches = self._val_batches()  # now, because they set random states

    def train_batches(self) -> Iterator[Any]:
        """Yield this process's micro-batches, and count those that were read."""
        batches = StepBatches(self.task, micro_batch_size=self.micro_batch, seed=0)
        first = self.rank * self.accumulation
        for step in range(STEPS):
            for micro in range(first, first + self.accumulation):
                self.read += 1
                yield batches.micro(step, micro)

    def _val_batches(self) -> list[Any]:
        dataset: Any = self.task.val_dataset()
        subset = validation_subset(len(dataset), 512, 0)
        batch_size = self.task.eval_batch_size or self.micro_batch
        batches = validation_batches(self.task, dataset, batch_size, subset, seed=0)
        places = range(self.rank, len(batches.sizes), self.workers)
        return [batches[place] for place in places]

    def find(self, **changed: Any) -> FoundLR:
        settings: dict[str, Any] = {
            "loss": self.task.loss,
            "train_batches": self.train_batches(),
            "val_batches": self.val_batches,
            "total_steps": STEPS,
            "accumulation": self.accumulation,
            "max_grad_norm": self.task.max_grad_norm,
        }
        return find_lr(self.model, self.optimizer, **(settings | changed))


def searched_by_worker(
    task: TrainingTask, group: Group | None = None, num_workers: int | None = None, **parts: Any
) -> Applying:
    """Return what the stage machine finds with a run's own worker."""
    config = AutoLRSConfig(**({"total_steps": STEPS, "lr": 0.1, "averaging": None} | parts))
    config = config.resolve(global_batch_size=task.global_batch_size)
    worker = Worker(task, config.training_settings(), group or Solo(), CPU, num_workers=num_workers)
    worker.take_snapshot(0)
    worker.check_first_loss()
    plan = config.plan()
    state, _ = advance(plan, RunState(), Ready(0))
    while isinstance(state.phase, Probing):
        probe = outstanding(state)[0]
        assert isinstance(probe, Probe)
        state, _ = advance(plan, state, worker.run_probe(probe, silent))
    assert isinstance(state.phase, Applying)
    return state.phase


def everything(
    model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None
) -> dict[str, Any]:
    """Return a copy of all that find_lr promises to leave as it was."""
    optimizer_state = copy.deepcopy(optimizer.state_dict())
    return {
        "model": {name: value.clone() for name, value in model.state_dict().items()},
        "modes": [layer.training for layer in model.modules()],
        "gradients": [
            None if parameter.grad is None else parameter.grad.clone()
            for parameter in model.parameters()
        ],
        "groups": optimizer_state["param_groups"],
        "optimizer": optimizer_state["state"],
        "scaler": copy.deepcopy(scaler.state_dict()) if scaler else None,
        "random": (random.getstate(), np.random.get_state(), torch.get_rng_state()),
    }


def take_step(loop: Loop, batch: Any, loss: Callable[[nn.Module, Any], torch.Tensor]) -> None:
    """Take a step of the user's own."""
    loop.optimizer.zero_grad()
    loss(loop.model, batch).backward()
    loop.optimizer.step()
