"""The search for the learning rate (LR) as a callback of ``lightning.Trainer``.

The module's ``training_step`` and the trainer's strategy take the probes' steps, so that
precision, clipping, gradient accumulation and processes are what they are in training.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from ray_autolrs.algorithm.schedules.warmup import Warmup
from ray_autolrs.algorithm.search.strategy import SearchStrategy
from ray_autolrs.extras import NeedsExtra
from ray_autolrs.integrations.calibrated_view import CalibratedView
from ray_autolrs.integrations.live_training import (
    LiveSettings,
    peak_lrs,
    scale_scheduler,
    set_mode,
    set_peak_lrs,
)
from ray_autolrs.training.averaging.average import STEPS
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.found_lr import FoundLR
from ray_autolrs.training.lone_lanes import sharded_parameter

with NeedsExtra("lightning"):
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities.types import LRSchedulerConfig

    from ray_autolrs.integrations.lightning_batches import HandedBack, Read
    from ray_autolrs.integrations.lightning_steps import TrainerSteps, state_kept

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
        self._view: CalibratedView | None = None
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
        if self.lrs is not None:
            logger.info("the LR %.4g was found before; the search is not repeated", self.lrs[0])
        elif trainer.ckpt_path is None:
            self._find(trainer, pl_module)
        self._view = self._calibrated_view(trainer, pl_module)

    def _find(self, trainer: Trainer, pl_module: LightningModule) -> None:
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

    def _calibrated_view(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> CalibratedView | None:
        steps = TrainerSteps(trainer, pl_module)

        def forward(batch: Any) -> None:
            with state_kept(pl_module):
                steps.loss(pl_module, batch)

        return self._settings.calibrated_view(trainer.optimizers[0], pl_module, forward)

    def _set_constant_lr(self, trainer: Trainer, total_steps: int | None) -> None:
        scheduler = self._settings.constant_lr(trainer.optimizers[0], total_steps)
        trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(scheduler, interval="step")]

    # The average is held between a look at it and the next step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Let the parameters hold what is trained."""
        _set_mode(trainer, averaged=False)
        if self._view is not None:
            self._view.keep(batch)

    def on_train_batch_end(self, *args: Any) -> None:
        """Note which layers train."""
        if self._view is not None:
            self._view.note_frozen()

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
        steps = TrainerSteps(trainer, pl_module)
        model = trainer.strategy.model
        assert model is not None
        with state_kept(pl_module):
            found = self._settings.find(
                steps,
                model,
                trainer.optimizers[0],
                source,
                total_steps=total_steps,
                accumulation=trainer.accumulate_grad_batches,
                scaler=getattr(trainer.precision_plugin, "scaler", None),
            )
        fit._data_fetcher = HandedBack(source)
        return found


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
