"""The steps of a ``lightning.Trainer``, taken for a search."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor, nn


class TrainerSteps:
    """The trainer's own steps, without its counters and its log."""

    def __init__(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer = trainer
        self._module = pl_module

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss of a batch, by ``training_step``."""
        return self._result(batch, 0, 1)

    def take(self, batches: Any) -> Tensor:
        """Take a step on a batch, or on a list of those that it accumulates over."""
        trainer = self._trainer
        optimizer = trainer.optimizers[0]
        count = trainer.accumulate_grad_batches
        batches = batches if count > 1 else [batches]
        losses: list[Tensor] = []

        def gradients(place: int) -> Tensor:
            loss = self._result(batches[place], place, count)
            if place == 0:
                optimizer.zero_grad()
            trainer.strategy.backward(loss, optimizer)
            losses.append(loss.detach())
            return loss

        def last() -> Tensor:
            with torch.enable_grad():
                return gradients(count - 1)

        for place in range(count - 1):
            with _unsynced(trainer.strategy):
                gradients(place)
        trainer.strategy.optimizer_step(optimizer, last)
        optimizer.zero_grad()
        return torch.stack(losses).double().sum()  # where bfloat16 would round it

    def _result(self, batch: Any, place: int, count: int) -> Tensor:
        """Return the loss of a batch, a ``count``-th of it."""
        trainer, strategy = self._trainer, self._trainer.strategy
        batch = trainer.precision_plugin.convert_input(batch)
        batch = self._module._on_before_batch_transfer(batch, dataloader_idx=0)
        batch = strategy.batch_to_device(batch, dataloader_idx=0)
        arguments = trainer.fit_loop.epoch_loop._build_kwargs(OrderedDict(), batch, place)
        output = strategy.training_step(*arguments.values())
        loss = ClosureResult.from_training_step_output(output, count).closure_loss
        if loss is None:
            raise ValueError(
                "training_step returned None, to leave a batch out; the search needs a loss of "
                "each: filter such samples in the data"
            )
        return loss


def _unsynced(strategy: Strategy) -> contextlib.AbstractContextManager[Any]:
    no_sync: Callable[[], Any] | None = getattr(strategy.model, "no_sync", None)
    return contextlib.nullcontext() if no_sync is None else no_sync()


@contextlib.contextmanager
def state_kept(module: LightningModule) -> Iterator[None]:
    """Drop what is logged, and put the state of metrics back."""
    parts: list[Any] = list(module.modules())
    metrics = [
        (part, {name: copy.deepcopy(getattr(part, name)) for name in part._defaults})
        for part in parts
        if isinstance(getattr(part, "_defaults", None), dict)
    ]
    silent = {name: lambda *args, **kwargs: None for name in ("log", "log_dict")}
    vars(module).update(silent)
    try:
        yield
    finally:
        for name in silent:
            del vars(module)[name]
        for part, states in metrics:
            for name, value in states.items():
                setattr(part, name, value)
            vars(part)["_computed"] = None
