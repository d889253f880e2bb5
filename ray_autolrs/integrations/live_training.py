"""What the callbacks for other trainers share: their settings, the average, and the LRs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ray_autolrs.algorithm.schedules.warmup import Warmup
from ray_autolrs.algorithm.search.strategy import SearchStrategy
from ray_autolrs.integrations.calibrated_view import CalibratedView, calibrated_view
from ray_autolrs.training.averaging.average import STEPS, averages_itself
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree
from ray_autolrs.training.find_lr import find_lr
from ray_autolrs.training.found_lr import FoundLR

logger = logging.getLogger(__name__)


class Steps(Protocol):
    """A trainer's own steps, without its counters and its log."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean loss of a batch."""

    def take(self, batches: Any) -> Tensor:
        """Take a step on a batch, or on a list of those that it accumulates over."""


@dataclass(frozen=True, kw_only=True)
class LiveSettings:
    """How a trainer's run is searched and averaged.

    Attributes:
        averaging: put around the trainer's optimizer, with a constant LR after the warm-up. None
            keeps the optimizer as it is and gives the chosen scheduler the LR that is found as
            its peak. An optimizer that is Schedule-Free already keeps its own.
        lr: an interval to search, or a guess; None is a guess at the optimizer's own LR.
        search: which LRs are tried; None is ``Bracket()``.
        warmup: of the constant LR with averaging; None is ``Warmup()``.
        validation_samples: held-out samples that judge the probes, over all processes.
        seed: of the model's random numbers in the probes.

    Raises:
        ValueError: ``averaging`` is of another kind.
    """

    averaging: ScheduleFreeAverage | None
    lr: float | tuple[float, float] | None
    search: SearchStrategy | None
    warmup: Warmup | None
    validation_samples: int | None
    seed: int

    def __post_init__(self) -> None:
        if not isinstance(self.averaging, ScheduleFreeAverage | None):
            raise ValueError(
                f"averaging={self.averaging!r} must be ScheduleFreeAverage(), or None to train "
                "with the optimizer and the scheduler as they are"
            )
        if self.warmup is not None and self.warmup.lr is not None:
            raise ValueError(
                f"warmup.lr={self.warmup.lr!r} must be None: the warm-up rises to the LR found"
            )

    def wrapped(self, optimizer: Optimizer, global_batch_size: int) -> Optimizer:
        """Return the optimizer with its average, or as it is if none is wanted or it has one."""
        if self.averaging is None:
            return optimizer
        if averages_itself(optimizer):
            logger.info("%s averages the weights itself, and goes on so", type(optimizer).__name__)
            return optimizer
        average = self.averaging.resolve(global_batch_size)
        assert average.momentum is not None, "resolved"
        return ScheduleFree(optimizer, momentum=average.momentum, power=average.power)

    def find(
        self,
        steps: Steps,
        model: nn.Module,
        optimizer: Any,
        train_batches: Iterable[Any],
        *,
        total_steps: int | None,
        accumulation: int,
        scaler: torch.amp.GradScaler | None,
    ) -> FoundLR:
        """Search on what a trainer has set up, by its own steps.

        Args:
            steps: takes them.
            model: what is trained, wrapped as the trainer has it.
            optimizer: the trainer's, perhaps in a wrapper of its own.
            train_batches: see :func:`~ray_autolrs.training.find_lr.find_lr`, as the others are.
            total_steps: likewise.
            accumulation: likewise.
            scaler: likewise.
        """
        bare = innermost(optimizer)
        return find_lr(
            model,
            bare,
            loss=steps.loss,
            step=steps.take,
            train_batches=train_batches,
            total_steps=total_steps,
            lr=peak_lrs(bare)[0] if self.lr is None else self.lr,
            search=self.search,
            accumulation=accumulation,
            scaler=scaler,
            validation_samples=self.validation_samples,
            seed=self.seed,
        )

    def calibrated_view(
        self, optimizer: Any, model: nn.Module, forward: Callable[[Any], object]
    ) -> CalibratedView | None:
        """Let the average be looked at with BatchNorm statistics of its own, if it has some."""
        if self.averaging is None:
            return None
        count = self.averaging.calibration_batches
        return calibrated_view(innermost(optimizer), model, forward, count)

    def set_momentum(self, optimizer: Optimizer, global_batch_size: int) -> None:
        """Give an average that has no step yet the momentum that its batch asks for."""
        assert self.averaging is not None, "there is an average"
        momentum = self.averaging.resolve(global_batch_size).momentum
        for group in optimizer.param_groups:
            if STEPS in group:
                group["average_momentum"] = momentum

    def constant_lr(
        self, optimizer: Optimizer, total_steps: int | None, warmup_steps: int | None = None
    ) -> LambdaLR:
        """Return a scheduler that warms up and then stays, for an average.

        Args:
            optimizer: whose LR it sets.
            total_steps: of the run; None without a known end.
            warmup_steps: the trainer's own setting, which ``warmup`` takes precedence over.
        """
        warmup = self.warmup or Warmup(steps=warmup_steps)
        resolved = warmup.resolve(total_steps, is_averaged=True)
        return LambdaLR(optimizer, Rise(resolved.steps or 0, resolved.power or 1.0))


class Rise:
    """The factor of each step's LR; unlike a function, it is saved with its scheduler.

    Args:
        steps: after which it is 1.
        power: of the step that it rises with.
    """

    def __init__(self, steps: int, power: float) -> None:
        self.steps = steps
        self.power = power

    def __call__(self, step: int) -> float:
        """Return the factor of a step, from 0."""
        return float(min(1.0, (step + 1) / max(1, self.steps)) ** self.power)


def innermost(optimizer: Any) -> Any:
    """Return the optimizer out of Accelerate's and Lightning's wrappers."""
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def set_mode(optimizer: Any, *, averaged: bool) -> None:
    """Let the parameters hold the average, or what is trained, if the optimizer averages."""
    inner = innermost(optimizer)
    change = getattr(inner, "eval" if averaged else "train", None)
    if callable(change):
        change()


def begin_average_anew(optimizer: Any) -> None:
    """Let a new run's average begin at what the parameters hold now."""
    inner = innermost(optimizer)
    if not isinstance(inner, ScheduleFree):
        return
    for name in ("eval", "train"):  # a view of the run before
        vars(inner).pop(name, None)
    for group in inner.param_groups:
        group.update({STEPS: 0, "lr_max": 0.0, "train_mode": True})
    for own in inner.state.values():
        for name in ("z", "y", "weight_sum"):
            own.pop(name, None)


def peak_lrs(optimizer: Optimizer) -> tuple[float, ...]:
    """Return each group's LR as it was built, whatever its scheduler makes of it now."""
    return tuple(float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups)


def set_peak_lrs(optimizer: Optimizer, lrs: Sequence[float]) -> None:
    """Give each group an LR as if it had been built with it, for schedulers made afterwards."""
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
        group.pop("initial_lr", None)
    innermost(optimizer).defaults["lr"] = lrs[0]


def scale_scheduler(scheduler: Any, ratios: Sequence[float]) -> None:
    """Multiply the LRs that a scheduler has taken over, and its optimizer's, group by group.

    Args:
        scheduler: of torch, or of that kind; what it has left of its way has the same shape.
        ratios: new LR over old, of each group.
    """
    for group, ratio in zip(scheduler.optimizer.param_groups, ratios, strict=True):
        for name in ("lr", "initial_lr", "max_lr", "min_lr"):
            if isinstance(group.get(name), torch.Tensor):
                group[name].mul_(ratio)
            elif name in group:
                group[name] *= ratio
    for part in (scheduler, *getattr(scheduler, "_schedulers", ())):
        for name in ("base_lrs", "max_lrs", "_last_lr"):
            if isinstance(vars(part).get(name), list):
                setattr(
                    part, name, [lr * r for lr, r in zip(getattr(part, name), ratios, strict=True)]
                )
