"""One copy of the model, its optimizer and its gradient scaler, and one optimizer step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ray_autolrs.algorithm.schedules.segments import group_lrs
from ray_autolrs.task import Precision, TrainingTask
from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.averaging.batch_norm import kept_statistics, take_statistics
from ray_autolrs.training.averaging.built import build_average
from ray_autolrs.training.averaging.lr_factors import momentum_of
from ray_autolrs.training.averaging.no_average import NoAverage
from ray_autolrs.training.batches import to_device
from ray_autolrs.training.collectives import Group, Solo
from ray_autolrs.training.counted import count_only
from ray_autolrs.training.data_parallel import (
    averages_gradients,
    data_parallel,
    forward_only,
    gradient_sync,
    kept_buffers,
    shards_of,
    warn_of_unused,
)
from ray_autolrs.training.live_loop import LiveLoop
from ray_autolrs.training.parts import built_parts
from ray_autolrs.training.random_streams import Stream, seed_everything
from ray_autolrs.training.sharding import whole
from ray_autolrs.training.weight_path import WeightPath

AUTOCAST_DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Replica:
    """The part of a training process that a snapshot captures, and how it takes a step.

    Args:
        task: builds the model and the optimizer.
        group: the workers that average their gradients.
        device: where the model lives.
        seed: seeds the model's initial weights, and its random numbers in each step.
        averaging: the average of the weights that is kept, resolved; None keeps none, except
            for an optimizer that averages in its own steps.
        follows_path: whether to follow how far the weights come; those of a sharded model are
            not followed.

    Attributes:
        path: of the weights; None where nobody follows it.
        rescales_uncounted: whether a step's gradient is the mean over those micro-batches whose
            loss is not 0 / 0, rather than over all; it costs the workers an exchange in each step.
        gradient_norms: where the 2-norm of each step's (scaled) gradient is noted; None for
            nowhere.
        can_look_back: whether the gradients of any micro-batch can be computed again: by one
            worker, or of a sharded model by all of them together. In a user's own loop that
            averages gradients itself, they cannot.
        is_sharded: whether each worker holds a part of the model, so that a forward pass needs
            all of them.

    Raises:
        ValueError: one of the task's settings is out of its range, its parts are refused, or the
            weights would be averaged twice.
    """

    def __init__(
        self,
        task: TrainingTask,
        group: Group,
        device: torch.device,
        seed: int,
        averaging: Averaging | None = None,
        *,
        follows_path: bool = False,
    ) -> None:
        task.check_settings()
        self.task = task
        self.device = device
        self.seed = seed
        parts = task.parts if isinstance(task, LiveLoop) else built_parts(task, group, device, seed)
        self.module = parts.module
        self.optimizer = parts.optimizer
        self.scaler = parts.scaler
        self.initial_lrs = parts.lrs
        self.is_sharded = bool(shards_of(self.module))
        self._own_step = parts.own_step
        self._parameters = list(self.module.parameters())
        # Layers that do not train, such as frozen BatchNorms, stay in the mode that they are in.
        self._modes = [(layer, layer.training) for layer in self.module.modules()]
        self.base_momentum = momentum_of(self.optimizer.param_groups[0])
        self.average = build_average(averaging, self.optimizer)
        follows = follows_path and not self.is_sharded
        self.path = WeightPath(self.average.optimizer) if follows else None
        self._group = group
        # A user's own module may be wrapped already, and a user's own step sees to it itself.
        self._averages_itself = averages_gradients(self.module)
        is_live = self._averages_itself or self._own_step is not None
        self.can_look_back = not (isinstance(task, LiveLoop) and is_live)
        alone = group.size == 1 or is_live
        self._group_module = self.module if alone else data_parallel(self.module, device)
        self._unused_are_known = alone
        self.rescales_uncounted = False
        self.gradient_norms: dict[int, Tensor] | None = None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context that model and loss run in: autocast, or none for ``"fp32"``."""
        if self.task.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=AUTOCAST_DTYPES[self.task.precision])

    @contextlib.contextmanager
    def forward_only(self) -> Iterator[None]:
        """Let forward passes be computed as they train, without a gradient and a trace."""
        with torch.no_grad(), self.autocast(), forward_only(self.module):
            yield

    def train_mode(self) -> None:
        """Put every layer in the mode that it trains in."""
        if self.module.training:  # walking through the layers would take time in each step
            return
        self.module.train()
        for layer, trains in self._modes:
            layer.training = trains

    def set_lr(self, lr: float) -> None:
        """Give the first parameter group an LR, and the others their ratio of it."""
        lrs = group_lrs(lr, self.initial_lrs)
        for param_group, group_lr in zip(self.optimizer.param_groups, lrs, strict=True):
            if isinstance(param_group["lr"], Tensor):
                param_group["lr"].fill_(group_lr)
            else:
                param_group["lr"] = group_lr

    def take_step(
        self,
        step: int,
        batches: Sequence[Any],
        micros: range,
        lr: float,
        losses: Tensor,
        *,
        alone: bool = False,
    ) -> None:
        """Take one optimizer step, without waiting for the device (fp16's scaler does wait).

        Args:
            step: the optimizer step; with each micro-batch's number it seeds the model's
                random numbers.
            batches: this worker's micro-batches of the global batch, on the CPU.
            micros: their numbers in the global batch.
            lr: LR of the first parameter group.
            losses: shape (micro-batches in the global batch,); the loss of each one that this
                worker computes is written to its place.
            alone: compute the step without the group, from all micro-batches. It goes through
                the bare module: DDP's forward pass may wait for the others.
        """
        self.set_lr(lr)
        if self._own_step is not None:
            self.train_mode()
            seed_everything(self.seed, Stream.MODEL, step, micros[0])
            loss = self._own_step(batches)
            losses[micros.start : micros.stop] = torch.as_tensor(loss).detach()
            self.average.update()
            return
        self._set_gradients(step, batches, micros, losses, self._forward_module(alone))
        if self.rescales_uncounted:
            group = Solo() if alone else self._group
            count_only(losses[micros.start : micros.stop], len(losses), self._parameters, group)
        if self.gradient_norms is not None:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            self.gradient_norms[step] = whole(nn.utils.get_total_norm(gradients))
        if self.task.max_grad_norm is not None:
            self.scaler.unscale_(self.average.optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self.task.max_grad_norm)
        self.scaler.step(self.average.optimizer)
        self.scaler.update()
        self.average.update()
        if self.path is not None:
            self.path.take_in()

    def loss_alone(self, step: int, micro: int, batch: Any) -> Tensor:
        """Return the loss of one micro-batch, with its graph. It changes buffers."""
        self.train_mode()
        return self._loss(step, micro, batch, self.module)

    def first_loss(self, step: int, micro: int, batch: Any) -> Tensor:
        """Return the loss of one micro-batch in training mode, without a gradient or a step."""
        with self.forward_only():
            return self.loss_alone(step, micro, batch)

    @contextlib.contextmanager
    def averaged(self, batches: Iterable[Any]) -> Iterator[None]:
        """Let the module hold the averaged weights, and afterwards what it held, bit for bit.

        Statistics of BatchNorm belong to the weights that they were taken with, so they are
        taken anew at the average. Gradients are dropped, which leaves their memory to a second copy
        of the weights.

        Args:
            batches: training batches, on the CPU, to take them from; they are read only if the
                weights are averaged and the module has running statistics.
        """
        if isinstance(self.average, NoAverage):
            yield
            return
        self.clear_gradients()
        frozen = [layer for layer, trains in self._modes if not trains]
        with kept_statistics(self.module), self.average.swapped_in():
            take_statistics(self.module, batches, self._calibration_pass, frozen=frozen)
            yield

    def _calibration_pass(self, batch: Any) -> None:
        with self.forward_only():
            self.task.loss(self.module, to_device(batch, self.device))

    def rehearse(self, step: int, batches: Sequence[Any], micros: range, losses: Tensor) -> None:
        """Compute a step's gradients and drop them. The caller puts the state back.

        DDP sorts its buckets anew after its first backward pass, and with more than two workers
        the place of a gradient in its bucket decides in which order it is added up. After a
        rehearsal, a step gives the same bits whether or not it is the first of its process.
        """
        if self._own_step is None:
            self._set_gradients(step, batches, micros, losses, self._forward_module(alone=False))
        else:
            self._own_step(batches)
        self.clear_gradients()

    def clear_gradients(self) -> None:
        """Drop the gradients of the whole module: clipping sees those the optimizer lacks."""
        for parameter in self._parameters:
            parameter.grad = None

    def _forward_module(self, alone: bool) -> nn.Module:
        return self.module if alone else self._group_module

    def _set_gradients(
        self,
        step: int,
        batches: Sequence[Any],
        micros: range,
        losses: Tensor,
        forward_module: nn.Module,
    ) -> None:
        """Set the (scaled) gradients of the global batch's mean loss, and note the losses."""
        if forward_module is not self.module and not self._unused_are_known:
            forward_module = self._find_unused(step, micros[0], batches[0])
        self.train_mode()
        self.clear_gradients()
        # To look through the layers for sharded ones would take time in each step.
        syncs = forward_module is not self.module or self._averages_itself
        buffers_of_first: list[Tensor] = []
        for place, (micro, batch) in enumerate(zip(micros, batches, strict=True)):
            is_last = place == len(micros) - 1
            with gradient_sync(forward_module, is_last) if syncs else contextlib.nullcontext():
                loss = self._loss(step, micro, batch, forward_module)
                part = loss if len(micros) == 1 else loss / len(micros)
                self.scaler.scale(part).backward()  # type: ignore[no-untyped-call]
            losses[micro] = loss.detach()
            if place == 0 and not is_last:
                buffers_of_first = [buffer.clone() for buffer in self.module.buffers()]
        # A step moves BatchNorm's running statistics once, by its first micro-batch: as on rank 0
        # with a worker for each micro-batch, so that they do not depend on how many workers share
        # the work.
        for buffer, kept in zip(self.module.buffers(), buffers_of_first, strict=False):
            buffer.copy_(kept)

    def _find_unused(self, step: int, micro: int, batch: Any) -> nn.Module:
        """Let DDP look for parameters without a gradient if there are some, and return it.

        It waits for the gradient of each parameter that needs one; to look costs time in each
        step. The module's buffers stay as they are.
        """
        self._unused_are_known = True
        self.train_mode()
        with kept_buffers(self.module):
            self._loss(step, micro, batch, self.module).backward()  # type: ignore[no-untyped-call]
        some_lack = warn_of_unused(self.module, self._group, type(self.task).__name__)
        self.clear_gradients()
        if some_lack:
            self._group_module = data_parallel(self.module, self.device, find_unused=True)
        return self._group_module

    def _loss(self, step: int, micro: int, batch: Any, forward_module: nn.Module) -> Tensor:
        seed_everything(self.seed, Stream.MODEL, step, micro)
        batch = to_device(batch, self.device)
        with self.autocast():
            if forward_module is self.module:
                return self.task.loss(self.module, batch)
            loss: Tensor = forward_module(lambda module: self.task.loss(module, batch))
            return loss
