"""The steps of a ``transformers.Trainer``, taken for a search."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, str, type(None))


class TrainerSteps:
    """A trainer's own steps, without its counters and its log.

    Args:
        trainer: the trainer.
        batch_samples: its ``get_batch_samples``, which counts the items of a step.
    """

    def __init__(self, trainer: Any, batch_samples: Callable[..., Any]) -> None:
        self._trainer = trainer
        self._batch_samples = batch_samples

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean loss of a batch."""
        trainer = self._trainer
        with trainer.compute_loss_context_manager():
            loss: Tensor = trainer.compute_loss(model, trainer._prepare_inputs(batch))
        return loss.mean()

    def take(self, batches: Any) -> Tensor:
        """Take a step as the trainer does."""
        trainer = self._trainer
        model, accelerator = trainer.model_wrapped, trainer.accelerator
        if trainer.args.gradient_accumulation_steps == 1:
            batches = [batches]
        batches, items = self._batch_samples(iter(batches), len(batches), trainer.args.device)
        trainer.current_gradient_accumulation_steps = len(batches)
        model.zero_grad()
        losses = []
        for place, batch in enumerate(batches):
            is_last = place == len(batches) - 1
            accelerator.gradient_state._set_sync_gradients(is_last)
            sync = contextlib.nullcontext() if is_last else accelerator.no_sync(model=model)
            with sync:
                losses.append(trainer.training_step(model, batch, items))
        if trainer.args.max_grad_norm > 0:
            trainer._clip_grad_norm(model)
        trainer.optimizer.step()
        model.zero_grad()
        return torch.stack(losses).double().sum()  # where bfloat16 would round it


@contextlib.contextmanager
def state_kept(trainer: Any, loader: Any, *, is_stream: bool) -> Iterator[None]:
    """Put back what the trainer's own steps and a loader's iterator note beside the model."""
    gradients = trainer.accelerator.gradient_state
    plain = {name: value for name, value in vars(trainer).items() if type(value) in PLAIN}
    metrics = copy.deepcopy(getattr(trainer, "_metrics", None))  # of TRL's trainers
    iterated = gradients.dataloader_references
    try:
        yield
    finally:
        vars(trainer).update(plain)
        if metrics is not None:
            trainer._metrics = metrics
        gradients._set_sync_gradients(True)
        if not is_stream:
            gradients.dataloader_references = iterated
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(0)
