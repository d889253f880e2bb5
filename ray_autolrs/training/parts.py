"""What a replica trains: built from a task, or the objects of a loop that runs already."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.random_streams import Stream, seed_everything
from ray_autolrs.training.sharding import sharded
from ray_autolrs.training.task_checks import checked_model, checked_optimizer

OwnStep = Callable[[Sequence[Any]], Tensor | float]
"""Takes one optimizer step on a worker's micro-batches, and returns their mean loss."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A model on its device, and what takes its steps.

    Attributes:
        module: the model.
        optimizer: over the model's parameters.
        scaler: scaling is for float16 alone; a disabled scaler passes everything through.
        lrs: LR of each parameter group that their ratios are taken from.
        own_step: takes a step in the user's own way, at the LR that is set; None has the replica
            take it.

    Raises:
        ValueError: the first parameter group's LR is not positive, so that the other groups have
            no ratio to it; a parameter of the model is lazy; or the optimizer needs a closure, or
            has a parameter that the model lacks.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    lrs: tuple[float, ...]
    own_step: OwnStep | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lrs[0]) and self.lrs[0] > 0):
            raise ValueError(
                f"the optimizer's first parameter group has lr={self.lrs[0]!r}; it must be "
                "positive, because the other groups keep their ratio to it"
            )
        for name, tensor in [*self.module.named_parameters(), *self.module.named_buffers()]:
            if is_lazy(tensor):
                raise ValueError(
                    f"the model's {name!r} has no shape yet: it is of a lazy module; run a batch "
                    "through the model, in build_model where there is one"
                )
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise ValueError(
                "the optimizer is LBFGS, which evaluates the loss several times in a step; use one "
                "whose step() needs no closure"
            )
        known = {id(parameter) for parameter in self.module.parameters()}
        for place, param_group in enumerate(self.optimizer.param_groups):
            if any(id(parameter) not in known for parameter in param_group["params"]):
                raise ValueError(
                    f"the optimizer's parameter group {place} has a parameter that the model "
                    "lacks; make it part of the model, or no snapshot holds it"
                )


def built_parts(task: TrainingTask, group: Group, device: torch.device, seed: int) -> Parts:
    """Return a task's parts, new and from their seed."""
    seed_everything(seed, Stream.BUILD)
    module = sharded(task, checked_model(task), group, device).to(device).train()
    optimizer = checked_optimizer(task, module)
    return Parts(
        module,
        optimizer,
        torch.amp.GradScaler(device.type, enabled=task.precision == "fp16"),
        tuple(float(param_group["lr"]) for param_group in optimizer.param_groups),
    )
