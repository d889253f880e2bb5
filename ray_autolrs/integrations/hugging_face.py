"""The search for the learning rate (LR) inside an unchanged ``transformers.Trainer``.

Trainer's own methods take the probes' steps, so that the loss, the count of its items, gradient
accumulation, precision and processes are what they are in training.

What is changed, on the one trainer that the callback is given
    ``create_optimizer`` puts the average around what it returns, before a checkpoint is loaded
    ``create_scheduler`` makes a constant LR after a warm-up for an average
    ``save_model`` saves the average
    ``get_batch_samples`` gives a stream's first batches, which the search has read, once more

Trainer itself calls the optimizer's ``eval()`` before an evaluation and ``train()`` before a step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import IterableDataset

from ray_autolrs.algorithm.schedules.warmup import Warmup
from ray_autolrs.algorithm.search.strategy import SearchStrategy
from ray_autolrs.extras import NeedsExtra
from ray_autolrs.integrations.calibrated_view import CalibratedView
from ray_autolrs.integrations.hugging_face_steps import TrainerSteps, state_kept
from ray_autolrs.integrations.live_training import (
    LiveSettings,
    begin_average_anew,
    peak_lrs,
    scale_scheduler,
    set_mode,
    set_peak_lrs,
)
from ray_autolrs.training.averaging.average import STEPS
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.found_lr import FoundLR

with NeedsExtra("transformers"):
    from transformers import (
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

logger = logging.getLogger(__name__)

RECORD = "autolrs"
"""Entry of ``trainer_state.json``'s log history that holds what was found."""


class AutoLRSCallback(TrainerCallback):
    """Finds the LR at the start of training, and trains on with averaged weights.

    ::

        trainer = Trainer(model, args, train_dataset=train_dataset, eval_dataset=eval_dataset)
        trainer.add_callback(AutoLRSCallback(trainer))
        trainer.train()

    The model is evaluated and saved at the average, and holds it after training. A run that is
    resumed from a checkpoint goes on with the LR that was found. Probes are judged on the first
    training batches, which they do not train on, so that no evaluation data is looked at.

    It suits trainers whose batches do not depend on the model: not those of reinforcement
    learning. FSDP2 needs ``averaging=None``; DeepSpeed and FSDP's first version are refused.

    Args:
        trainer: any ``Trainer``, TRL's too; PEFT's models are models.
        averaging: see :class:`~ray_autolrs.integrations.live_training.LiveSettings`.
        lr: likewise; None is a guess at ``args.learning_rate``.
        search: likewise.
        warmup: likewise; None takes ``args.warmup_steps`` where they are given.
        validation_samples: likewise.
        seed: likewise.

    Attributes:
        found: what the search has found; None before it, and in a run that was resumed.
        lrs: the peak LR of each parameter group, as found; None before the search.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        averaging: ScheduleFreeAverage | None = ScheduleFreeAverage(),  # noqa: B008  # frozen
        lr: float | tuple[float, float] | None = None,
        search: SearchStrategy | None = None,
        warmup: Warmup | None = None,
        validation_samples: int | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(trainer, Trainer):
            raise ValueError(
                f"trainer={type(trainer).__name__} must be a transformers.Trainer: call "
                "trainer.add_callback(AutoLRSCallback(trainer))"
            )
        if averaging is not None and trainer.lr_scheduler is not None:
            raise ValueError(
                "the trainer was given a scheduler, and an average needs a constant LR; give the "
                "callback averaging=None to find the scheduler's peak, or the trainer no scheduler"
            )
        _check_shards(trainer, averaging)
        self.found: FoundLR | None = None
        self.lrs: tuple[float, ...] | None = None
        self._settings = LiveSettings(
            averaging=averaging,
            lr=lr,
            search=search,
            warmup=warmup,
            validation_samples=validation_samples,
            seed=seed,
        )
        self._trainer: Any = trainer
        self._made_by_trainer = {
            name: getattr(trainer, name)
            for name in ("create_optimizer", "create_scheduler", "save_model", "get_batch_samples")
        }
        self._steps = TrainerSteps(trainer, self._made_by_trainer["get_batch_samples"])
        self._view: CalibratedView | None = None
        for name in self._made_by_trainer:
            setattr(trainer, name, getattr(self, f"_{name}"))
        self._handed_back: Iterator[Any] | None = None

    # What takes the place of the trainer's own methods

    def _create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        optimizer = self._made_by_trainer["create_optimizer"](*args, **kwargs)
        state: TrainerState = self._trainer.state
        recorded = _recorded(state)
        self.lrs = tuple(recorded["group_lrs"]) if recorded else None
        if recorded is None and state.global_step > 0:
            return optimizer
        is_averaged = recorded is None or recorded["averaged"]
        if is_averaged:
            optimizer = self._settings.wrapped(optimizer, self._global_batch_size())
            self._trainer.optimizer = optimizer
        if self.lrs is not None:  # schedulers take them in when they are made
            set_peak_lrs(optimizer, self.lrs)
        return optimizer

    def _create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        trainer = self._trainer
        optimizer = optimizer or trainer.optimizer
        if self._settings.averaging is None or STEPS not in optimizer.param_groups[0]:
            return self._made_by_trainer["create_scheduler"](num_training_steps, optimizer)
        if trainer.lr_scheduler is None:
            given = trainer.args.warmup_steps > 0
            trainer.lr_scheduler = self._settings.constant_lr(
                optimizer,
                num_training_steps,
                warmup_steps=trainer.args.get_warmup_steps(num_training_steps) if given else None,
            )
            trainer._created_lr_scheduler = True
        return trainer.lr_scheduler

    def _save_model(self, *args: Any, **kwargs: Any) -> None:
        # It stays so until the next step: the optimizer's state is saved after the model.
        set_mode(self._trainer.optimizer, averaged=True)
        self._made_by_trainer["save_model"](*args, **kwargs)

    def _get_batch_samples(self, epoch_iterator: Iterator[Any], *args: Any, **kwargs: Any) -> Any:
        batches = self._handed_back or epoch_iterator
        given = self._made_by_trainer["get_batch_samples"](batches, *args, **kwargs)
        if self._view is not None:
            for batch in given[0]:
                self._view.keep(batch)
        return given

    # Events

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Search, unless the run goes on from a checkpoint."""
        if self.lrs is not None:
            logger.info("the LR %.4g was found before; the search is not repeated", self.lrs[0])
        elif state.global_step > 0:
            logger.warning(
                "the checkpoint of step %d was made without AutoLRSCallback: training goes on as "
                "it was, without a search or an average",
                state.global_step,
            )
        else:
            self._find(state)
        model = self._trainer.model
        self._view = self._settings.calibrated_view(
            self._trainer.optimizer, model, lambda batch: self._steps.loss(model, batch)
        )

    def _find(self, state: TrainerState) -> None:
        begin_average_anew(self._trainer.optimizer)
        self.found = self._search(state.max_steps)
        self.lrs = self.found.group_lrs
        self._set_lrs(state.max_steps)
        entry = {
            "group_lrs": list(self.lrs),
            "averaged": STEPS in self._trainer.optimizer.param_groups[0],
        }
        history: list[Any] = state.log_history
        history.append({"step": state.global_step, RECORD: entry})

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Note which layers train."""
        if self._view is not None:
            self._view.note_frozen()

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Let the model hold the average: it may be the last epoch, and the best model's turn."""
        self._handed_back = None
        set_mode(self._trainer.optimizer, averaged=True)

    # The search

    def _search(self, max_steps: int) -> FoundLR:
        trainer = self._trainer
        loader = trainer.callback_handler.train_dataloader
        is_stream = isinstance(getattr(loader, "dataset", None), IterableDataset)
        with state_kept(trainer, loader, is_stream=is_stream):
            if hasattr(loader, "set_epoch"):
                loader.set_epoch(0)
            found = self._settings.find(
                self._steps,
                trainer.model_wrapped,
                trainer.optimizer,
                loader,
                total_steps=max_steps if max_steps > 0 else None,
                accumulation=trainer.args.gradient_accumulation_steps,
                scaler=getattr(trainer.accelerator, "scaler", None),
            )
        # What can be read again is: the trainer reads the same batches from the same states.
        self._handed_back = found.batches if is_stream else None
        return found

    def _set_lrs(self, max_steps: int) -> None:
        trainer = self._trainer
        assert self.lrs is not None
        before = peak_lrs(trainer.optimizer)
        if trainer._created_lr_scheduler:  # made anew, as some take the LR into their formulas
            set_peak_lrs(trainer.optimizer, self.lrs)
            trainer.lr_scheduler = None
            trainer.create_scheduler(num_training_steps=max_steps)
            trainer.callback_handler.lr_scheduler = trainer.lr_scheduler
        else:
            ratios = [new / old for new, old in zip(self.lrs, before, strict=True)]
            scale_scheduler(trainer.lr_scheduler, ratios)

    def _global_batch_size(self) -> int:
        args = self._trainer.args
        per_process = self._trainer._train_batch_size * args.gradient_accumulation_steps
        return int(per_process * args.world_size)


def _check_shards(trainer: Any, averaging: ScheduleFreeAverage | None) -> None:
    """Refuse what is split over the processes in a way that cannot be put back or saved."""
    is_fsdp2 = getattr(trainer.accelerator, "is_fsdp2", False)
    if trainer.is_deepspeed_enabled or (trainer.is_fsdp_enabled and not is_fsdp2):
        raise ValueError(
            "the trainer shards the optimizer's state by DeepSpeed or FSDP's first version, which "
            "the search cannot put back; use FSDP2 or DDP, or find the LR on one GPU and set "
            "learning_rate"
        )
    if is_fsdp2 and averaging is not None:
        raise ValueError(
            "the trainer shards the model by FSDP2, whose checkpoints take the weights that are "
            "trained and not their average; give the callback averaging=None, which finds the "
            "peak of the trainer's own schedule"
        )


def _recorded(state: TrainerState) -> Mapping[str, Any] | None:
    """Return what a checkpoint says was found."""
    history: list[Any] = state.log_history
    return next((entry[RECORD] for entry in history if RECORD in entry), None)
