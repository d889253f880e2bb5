"""The methods that AutoLRS is compared with, each with the settings its authors recommend.

Their schedulers are those of torch and transformers. What is left to tune is a peak learning rate
(LR), on a grid of the caller's. Warm-up is 5% of the run wherever it is usual; one-cycle and CLR
rise by themselves, and Prodigy begins with a tiny LR. The three whose names end in
``_long_warmup`` take the 20% that AutoLRS takes.

>>> lrs = BASELINES["linear"].lrs(steps=100, peak_lr=1.0)
>>> [round(lrs.lr_at(step), 3) for step in (0, 4, 5, 24, 99)]
[0.2, 1.0, 1.0, 0.8, 0.011]
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from ray_autolrs.comparison.plain_training import LRSource, train_plain
from ray_autolrs.comparison.record import RunRecord
from ray_autolrs.extras import NeedsExtra
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage

with NeedsExtra("transformers"):
    from transformers import GreedyLR, get_scheduler

WARMUP = 0.05
"""Part of the run."""

LONG_WARMUP = 0.2
"""The same, of the default's warm-up: how much of its lead is the warm-up's?"""

PRODIGY_LR = 1.0
"""Prodigy multiplies its own estimate by it; its authors say to leave it."""

Steppable = LRScheduler | GreedyLR

Scheduler = Callable[[Optimizer, int, int], Steppable]
"""Builds a scheduler from an optimizer at the peak LR, the steps after the warm-up, which are
the scheduler's, and the steps of the warm-up."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """How a method trains.

    Attributes:
        scheduler: gives the LRs after the warm-up.
        warmup: part of the run in which the LR rises linearly to the scheduler's first one.
        averaging: the average of the weights that it is judged at.
        adapt: changes the task, for a method that brings its own optimizer.
        fixed_lr: the peak LR that it always has; None where that is tuned.
    """

    scheduler: Scheduler
    _: KW_ONLY
    warmup: float = WARMUP
    averaging: Averaging | None = None
    adapt: Callable[[TrainingTask], TrainingTask] | None = None
    fixed_lr: float | None = None

    def lrs(self, steps: int, peak_lr: float) -> LRSource:
        """Return the LRs of a run of ``steps``. The warm-up of w steps begins at 1/w, not at 0."""
        warmup_steps = round(self.warmup * steps)
        optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=peak_lr)  # holds an LR, trains nothing
        scheduler = self.scheduler(optimizer, steps - warmup_steps, warmup_steps)
        first_lr = _lr_of(optimizer)
        warmup = [first_lr * ((step + 1) / warmup_steps) for step in range(warmup_steps)]
        if isinstance(scheduler, GreedyLR):
            return ToldLRs(warmup, optimizer, scheduler)
        return ListedLRs([*warmup, *_read_off(optimizer, scheduler, steps - warmup_steps)])


@dataclass(frozen=True, slots=True)
class ListedLRs:
    """The LR of each step."""

    lrs: list[float]

    def lr_at(self, step: int) -> float:
        return self.lrs[step]


class ToldLRs:
    """LRs that answer each step's training loss after a warm-up."""

    def __init__(self, warmup: list[float], optimizer: Optimizer, scheduler: GreedyLR) -> None:
        self._warmup = warmup
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._asked = -1

    def lr_at(self, step: int) -> float:
        self._asked = step
        return self._warmup[step] if step < len(self._warmup) else _lr_of(self._optimizer)

    def tell(self, loss: float) -> None:
        """Take in a step's training loss."""
        if self._asked >= len(self._warmup):
            self._scheduler.step(loss)


def _lr_of(optimizer: Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def _read_off(optimizer: Optimizer, scheduler: LRScheduler, steps: int) -> list[float]:
    lrs = [_lr_of(optimizer)]
    for _ in range(steps - 1):
        optimizer.step()  # torch warns where a scheduler steps without it
        scheduler.step()
        lrs.append(_lr_of(optimizer))
    return lrs


def _transformers(name: str, **settings: Any) -> Scheduler:
    return lambda optimizer, steps, _: get_scheduler(name, optimizer, 0, steps, settings)


def _inverse_sqrt(optimizer: Optimizer, steps: int, warmup_steps: int) -> Steppable:
    # As in the Transformer, the time scale is the warm-up's length.
    named = _transformers("inverse_sqrt", timescale=warmup_steps or None)
    return named(optimizer, steps, warmup_steps)


def _wsd(optimizer: Optimizer, steps: int, warmup_steps: int) -> Steppable:
    # 30% of the run: the longer decay was measured to end lower in short runs.
    decay_steps = round(0.3 * (steps + warmup_steps))
    settings = {"num_decay_steps": decay_steps, "decay_type": "linear"}
    return _transformers("warmup_stable_decay", **settings)(optimizer, steps, warmup_steps)


def _multi_step(optimizer: Optimizer, steps: int, warmup_steps: int) -> LRScheduler:
    # He et al. 2016, section 4.2: to a tenth at half and at three quarters of the run.
    milestones = [round(part * (steps + warmup_steps)) - warmup_steps for part in (0.5, 0.75)]
    return lr_scheduler.MultiStepLR(optimizer, milestones)


def _cyclic(mode: Literal["triangular", "triangular2", "exp_range"]) -> Scheduler:
    def scheduler(optimizer: Optimizer, steps: int, _: int) -> LRScheduler:
        peak_lr = _lr_of(optimizer)
        return lr_scheduler.CyclicLR(
            optimizer,
            base_lr=peak_lr / 4,  # Smith 2017: a third or a quarter
            max_lr=peak_lr,
            # Four cycles (ours). Rounded up: the last is cut, rather than a fifth begun.
            step_size_up=-(-steps // 8),
            mode=mode,
            gamma=0.1 ** (1 / steps),  # of exp_range: a tenth of the height is left at the end
            cycle_momentum=False,
        )

    return scheduler


def _one_cycle(optimizer: Optimizer, steps: int, _: int) -> LRScheduler:
    return lr_scheduler.OneCycleLR(
        optimizer, _lr_of(optimizer), total_steps=steps, cycle_momentum=False
    )


def _sgdr(optimizer: Optimizer, steps: int, _: int) -> LRScheduler:
    # Cycles of 1 + 2 + 4 parts of the run (ours).
    return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=-(-steps // 7), T_mult=2)


def _greedy(optimizer: Optimizer, *_: int) -> GreedyLR:
    """Return GreedyLR, to be told each step's training loss.

    Transformers' trainer tells it the validation loss at each evaluation, and its paper each
    step's loss; the paper's is followed, with GreedyLR's own smoothing. Its limits on the LR
    are absolute numbers by default, and here relative to the LR it starts with: a hundredth
    and ten times. Other settings are its defaults.
    """
    lr = _lr_of(optimizer)
    return GreedyLR(optimizer, smooth=True, min_lr=lr / 100, max_lr=lr * 10)


def with_prodigy(task: TrainingTask) -> TrainingTask:
    """Return a copy of the task with Prodigy as its optimizer.

    Weight decay, and the betas of an Adam, stay as the task has them.

    Raises:
        ValueError: the package ``prodigyopt`` is not installed.
    """
    try:
        # By name: it is for this comparison only, and the package does not depend on it.
        prodigy = importlib.import_module("prodigyopt").Prodigy
    except ImportError as error:
        raise ValueError(
            "method='prodigy' needs the package prodigyopt, which is missing; install it, or leave "
            "the method out"
        ) from error
    original = task.build_optimizer

    def build_optimizer(model: nn.Module) -> Optimizer:
        own = original(model)
        groups = [
            {"params": group["params"], "weight_decay": group.get("weight_decay", 0.0)}
            for group in own.param_groups
        ]
        betas = own.defaults.get("betas", (0.9, 0.999))
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it was told
            optimizer: Optimizer = prodigy(groups, lr=PRODIGY_LR, betas=betas)
        return optimizer

    copied = copy.copy(task)
    copied.build_optimizer = build_optimizer  # type: ignore[method-assign]
    return copied


_constant, _cosine = _transformers("constant"), _transformers("cosine")
_schedule_free = ScheduleFreeAverage(momentum=0.9, power=0.0)  # the package's own

BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "constant": Baseline(_constant),
        "cosine": Baseline(_cosine),
        "linear": Baseline(_transformers("linear")),
        "polynomial": Baseline(_transformers("polynomial", power=0.9, lr_end=0.0)),  # ParseNet's
        "wsd": Baseline(_wsd),
        "inverse_sqrt": Baseline(_inverse_sqrt),
        "multi_step": Baseline(_multi_step),
        "one_cycle": Baseline(_one_cycle, warmup=0.0),
        "triangular": Baseline(_cyclic("triangular"), warmup=0.0),
        "triangular2": Baseline(_cyclic("triangular2"), warmup=0.0),
        "exp_range": Baseline(_cyclic("exp_range"), warmup=0.0),
        "sgdr": Baseline(_sgdr),
        "schedule_free": Baseline(_constant, averaging=_schedule_free),
        "prodigy": Baseline(_cosine, warmup=0.0, adapt=with_prodigy, fixed_lr=PRODIGY_LR),
        "greedy": Baseline(_greedy),
        "cosine_long_warmup": Baseline(_cosine, warmup=LONG_WARMUP),
        "wsd_long_warmup": Baseline(_wsd, warmup=LONG_WARMUP),
        "schedule_free_long_warmup": Baseline(
            _constant, warmup=LONG_WARMUP, averaging=_schedule_free
        ),
    }
)
"""Every baseline, by name. ``triangular`` is CLR."""

CLOSE_RELATIVES = ("multi_step", "polynomial", "triangular2", "exp_range")
"""Baselines that are close to others, and run only where they are asked for by name."""


def train_baseline(
    method: str,
    task: TrainingTask,
    *,
    lr: float,
    steps: int,
    seed: int,
    device: torch.device | None = None,
    eval_every: int | None = None,
) -> RunRecord:
    """Train a task by a baseline's method, at the peak LR ``lr``, as :func:`train_plain` does.

    Raises:
        ValueError: no baseline has that name; or as :func:`train_plain`.
    """
    if method not in BASELINES:
        raise ValueError(f"method={method!r} must be one of {', '.join(BASELINES)}")
    baseline = BASELINES[method]
    if baseline.adapt is not None:
        task = baseline.adapt(task)
    peak_lr = lr if baseline.fixed_lr is None else baseline.fixed_lr
    return train_plain(
        task,
        baseline.lrs(steps, peak_lr),
        method=method,
        lr=peak_lr,
        steps=steps,
        seed=seed,
        device=device,
        averaging=baseline.averaging,
        eval_every=eval_every,
    )
