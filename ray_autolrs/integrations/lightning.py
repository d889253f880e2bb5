"""The search for the learning rate (LR) as a callback of ``lightning.Trainer``.

The module's ``training_step`` and the trainer's strategy take the probes' steps, so that
precision, clipping, gradient accumulation and processes are what they are in training.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.optimization.automatic import ClosureResult
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor, nn

from ray_autolrs.algorithm.schedules.warmup import Warmup
from ray_autolrs.algorithm.search.strategy import SearchStrategy
from ray_autolrs.integrations.lightning_batches import HandedBack, Read
from ray_autolrs.integrations.live_training import (
    LiveSettings,
    innermost,
    peak_lrs,
    scale_scheduler,
    set_mode,
    set_peak_lrs,
    warn_of_batch_norm,
)
from ray_autolrs.training.averaging.average import STEPS
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.find_lr import find_lr
from ray_autolrs.training.found_lr import FoundLR
from ray_autolrs.training.lone_lanes import sharded_parameter

logger = logging.getLogger(__name__)


class AutoLRS(Callback):
    """Finds the LR at the start of training, and trains on with averaged weights.

    ``Trainer(callbacks=[AutoLRS()])`` does what ``Tuner.lr_find`` is for. The module is validated,
    tested and saved at the average, and holds it after training. A run that is resumed from a
    checkpoint goes on with the LR that was found. Probes are judged by ``training_step`` on the
    first training batches, which they do not train on; they are trained on afterwards.

    A module has one optimizer and automatic optimization. What ``training_step`` logs in a probe
    is dropped. Metrics of torchmetrics are put back; of other attributes only plain ones are.

    Args:
        averaging: see :class:`~ray_autolrs.integrations.live_training.LiveSettings`.
        lr: likewise.
        search: likewise.
        warmup: likewise.
        validation_samples: likewise.
        seed: likewise.

    Attributes:
        found: what the search has found; None before it, and in a run that was resumed.
        lrs: the peak LR of each parameter group, as found; None before the search.
    """

    def __init__(
        self,
        *,
        averaging: ScheduleFreeAverage | None = ScheduleFreeAverage(),  # noqa: B008  # frozen
        lr: float | tuple[float, float] | None = None,
        search: SearchStrategy | None = None,
        warmup: Warmup | None = None,
        validation_samples: int | None = None,
        seed: int = 0,
    ) -> None:
        self.found: FoundLR | None = None
        self.lrs: tuple[float, ...] | None = None
        self._is_averaged = averaging is not None
        self._settings = LiveSettings(
            averaging=averaging,
            lr=lr,
            search=search,
            warmup=warmup,
            validation_samples=validation_samples,
            seed=seed,
        )

    # What a checkpoint holds

    def state_dict(self) -> dict[str, Any]:
        """Return what was found."""
        lrs = None if self.lrs is None else list(self.lrs)
        return {"group_lrs": lrs, "averaged": self._is_averaged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was found before."""
        if state_dict["group_lrs"] is not None:
            self.lrs = tuple(state_dict["group_lrs"])
            self._is_averaged = state_dict["averaged"]

    # Before training

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin a run; a checkpoint is loaded after this."""
        if stage != "fit":
            return
        self.found = self.lrs = None
        self._is_averaged = self._settings.averaging is not None
        save = trainer.save_checkpoint
        if not hasattr(save, "saves_average"):

            def save_average(*args: Any, **kwargs: Any) -> None:
                # It stays so until the next step: the optimizer's state is saved with the model.
                _set_mode(trainer, averaged=True)
                save(*args, **kwargs)

            save_average.saves_average = True  # type: ignore[attr-defined]
            trainer.save_checkpoint = save_average  # type: ignore[method-assign]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average around the optimizer, before a checkpoint's state is loaded.

        Raises:
            ValueError: the module's steps cannot be taken by the search.
        """
        _check(trainer, pl_module)
        if trainer.ckpt_path is not None and self.lrs is None:
            logger.warning(
                "the checkpoint was made without AutoLRS: training goes on as it was, without a "
                "search or an average"
            )
            return
        optimizer = trainer.strategy.optimizers[0]
        if self._is_averaged:
            # With any batch size: the data, which tells it, is set up after this.
            optimizer = self._settings.wrapped(optimizer, 32)
            trainer.strategy.optimizers = [optimizer]
        if self.lrs is not None:
            set_peak_lrs(optimizer, self.lrs)
        self._is_averaged = STEPS in optimizer.param_groups[0]
        if self._is_averaged:
            if trainer.lr_scheduler_configs:
                logger.warning(
                    "the average needs a constant LR after its warm-up, which takes the place of "
                    "%s; with averaging=None that one stays, with the LR found as its peak",
                    type(trainer.lr_scheduler_configs[0].scheduler).__name__,
                )
            self._set_constant_lr(trainer, None)  # a checkpoint's own steps are loaded into it

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, unless the run goes on from a checkpoint."""
        warn_of_batch_norm(pl_module, trainer.optimizers[0])
        if self.lrs is not None:
            logger.info("the LR %.4g was found before; the search is not repeated", self.lrs[0])
            return
        if trainer.ckpt_path is not None:
            return
        steps = trainer.estimated_stepping_batches
        total_steps = int(steps) if math.isfinite(steps) and steps > 0 else None
        before = peak_lrs(trainer.optimizers[0])
        if self._is_averaged:
            self._settings.set_momentum(trainer.optimizers[0], _global_batch_size(trainer))
        self.found = self._search(trainer, pl_module, total_steps)
        self.lrs = self.found.group_lrs
        if trainer.lr_scheduler_configs and not self._is_averaged:
            ratios = [new / old for new, old in zip(self.lrs, before, strict=True)]
            for config in trainer.lr_scheduler_configs:
                scale_scheduler(config.scheduler, ratios)
            return
        set_peak_lrs(trainer.optimizers[0], self.lrs)
        if self._is_averaged:
            self._set_constant_lr(trainer, total_steps)

    def _set_constant_lr(self, trainer: Trainer, total_steps: int | None) -> None:
        scheduler = self._settings.constant_lr(trainer.optimizers[0], total_steps)
        trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(scheduler, interval="step")]

    # The average is held between a look at it and the next step

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """Let the parameters hold what is trained."""
        _set_mode(trainer, averaged=False)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the parameters hold the average."""
        _set_mode(trainer, averaged=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the parameters hold the average."""
        _set_mode(trainer, averaged=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the parameters hold the average."""
        _set_mode(trainer, averaged=True)

    # The search

    def _search(
        self, trainer: Trainer, pl_module: LightningModule, total_steps: int | None
    ) -> FoundLR:
        fit: Any = trainer.fit_loop
        source = Read(fit._data_fetcher)
        steps = _Steps(trainer, pl_module)
        optimizer = innermost(trainer.optimizers[0])
        lr = self._settings.lr if self._settings.lr is not None else peak_lrs(optimizer)[0]
        model = trainer.strategy.model
        assert model is not None
        with _state_kept(pl_module):
            found = find_lr(
                model,
                optimizer,
                loss=steps.loss,
                step=steps.take,
                train_batches=source,
                total_steps=total_steps,
                lr=lr,
                search=self._settings.search,
                accumulation=trainer.accumulate_grad_batches,
                scaler=getattr(trainer.precision_plugin, "scaler", None),
                validation_samples=self._settings.validation_samples,
                seed=self._settings.seed,
            )
        fit._data_fetcher = HandedBack(source)
        return found


class _Steps:
    """The trainer's own steps, without its counters and its log."""

    def __init__(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer = trainer
        self._module = pl_module

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self._result(batch, 0, 1)

    def take(self, batches: Any) -> Tensor:
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
        return torch.stack(losses).sum()

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


def _check(trainer: Trainer, module: LightningModule) -> None:
    if not module.automatic_optimization:
        raise ValueError(
            f"{type(module).__name__}.automatic_optimization=False takes its steps in "
            "training_step, where no search can; call ray_autolrs.find_lr with a step of your own"
        )
    optimizers = trainer.strategy.optimizers
    if len(optimizers) != 1:
        raise ValueError(
            f"{type(module).__name__}.configure_optimizers gave {len(optimizers)} optimizers; one "
            "can be searched: put the parameters in groups of one optimizer"
        )
    model = trainer.strategy.model
    sharded = None if model is None else sharded_parameter(model)
    if sharded is not None or "deepspeed" in type(trainer.strategy).__name__.lower():
        raise ValueError(
            f"{type(trainer.strategy).__name__} shards the optimizer's state, which the search "
            "cannot put back; find the LR with strategy='ddp' or on one device"
        )


def _global_batch_size(trainer: Trainer) -> int:
    """Return the samples of a step; 32 for each batch of a loader that does not tell."""
    loader: Any = trainer.fit_loop._combined_loader.flattened[0]  # type: ignore[union-attr]
    sizes = [
        getattr(part, "batch_size", None)
        for part in (loader, getattr(loader, "batch_sampler", None))
    ]
    size = next((size for size in sizes if isinstance(size, int)), 32)
    return size * trainer.accumulate_grad_batches * trainer.world_size


def _set_mode(trainer: Trainer, *, averaged: bool) -> None:
    for optimizer in trainer.strategy.optimizers:
        set_mode(optimizer, averaged=averaged)


def _unsynced(strategy: Strategy) -> contextlib.AbstractContextManager[Any]:
    no_sync: Callable[[], Any] | None = getattr(strategy.model, "no_sync", None)
    return contextlib.nullcontext() if no_sync is None else no_sync()


@contextlib.contextmanager
def _state_kept(module: LightningModule) -> Iterator[None]:
    """Drop what is logged, and put the state of metrics back."""
    metrics = [
        (part, {name: copy.deepcopy(getattr(part, name)) for name in part._defaults})
        for part in module.modules()
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
