"""The methods that AutoLRS is compared with, each with the settings its authors recommend.

What is left to tune is a learning rate (LR), on a grid of the caller's. Warm-up is 5% of the run
wherever it is usual; one-cycle and CLR rise by themselves, and Prodigy begins with a tiny LR. The
three whose names end in ``_long_warmup`` take the 20% that AutoLRS takes.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from transformers import GreedyLR

from ray_autolrs.comparison.catalogue import (
    constant,
    cosine,
    inverse_sqrt,
    linear,
    one_cycle,
    sgdr,
    triangular,
    wsd,
)
from ray_autolrs.comparison.plain_training import LRSource, train_plain
from ray_autolrs.comparison.record import RunRecord
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.averaging import NoAverage, ScheduleFree, WeightAverage

WARMUP = 0.05
"""Part of the run."""

LONG_WARMUP = 0.2
"""The same, of the default's warm-up: how much of its lead is the warm-up's?"""

PRODIGY_LR = 1.0
"""Prodigy multiplies its own estimate by it; its authors say to leave it."""

Schedule = Callable[[int, float], LRSource]
"""(steps, peak LR) to a source of LRs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """How a method trains.

    Attributes:
        schedule: its LRs.
        make_average: the average of the weights that it is judged at.
        adapt: changes the task, for a method that brings its own optimizer.
        is_tuned: whether its LR is tuned; otherwise it is always ``PRODIGY_LR``.
    """

    schedule: Schedule
    make_average: Callable[[Optimizer], WeightAverage] = NoAverage
    adapt: Callable[[TrainingTask], TrainingTask] | None = None
    is_tuned: bool = True


@dataclass
class GreedySource:
    """Hugging Face's GreedyLR after a warm-up, told each step's training loss.

    Transformers' trainer tells it the validation loss at each evaluation, and its paper each
    step's loss; the paper's is followed, with GreedyLR's own smoothing. Its limits on the LR
    are absolute numbers by default, and here relative to the LR it starts with: a hundredth
    and ten times. Other settings are its defaults.

    Attributes:
        steps: of the run.
        lr: at the end of the warm-up.
    """

    steps: int
    lr: float
    _asked: int = field(default=-1, init=False)

    def __post_init__(self) -> None:
        self._optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=self.lr)  # holds the LR
        self._greedy = GreedyLR(
            self._optimizer, smooth=True, min_lr=self.lr / 100, max_lr=self.lr * 10
        )

    def lr_at(self, step: int) -> float:
        self._asked = step
        warmup = warmup_steps(self.steps)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        return float(self._optimizer.param_groups[0]["lr"])

    def tell(self, loss: float) -> None:
        """Take in a step's training loss."""
        if self._asked >= warmup_steps(self.steps):
            self._greedy.step(loss)


def warmup_steps(steps: int, part: float = WARMUP) -> int:
    """Return the steps of the warm-up in a run of ``steps``."""
    return round(part * steps)


def _baseline(make: Callable[..., Any], *, warmup: float = WARMUP, **settings: Any) -> Schedule:
    def schedule(steps: int, lr: float) -> LRSource:
        baseline = make(steps, warmup_steps=warmup_steps(steps, warmup), **settings)
        source: LRSource = baseline.schedule(lr)
        return source

    return schedule


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


RIVALS: Mapping[str, Rival] = MappingProxyType(
    {
        "constant": Rival(schedule=_baseline(constant)),
        "cosine": Rival(schedule=_baseline(cosine)),
        "linear": Rival(schedule=_baseline(linear)),
        # The longer decay was measured to end lower in short runs.
        "wsd": Rival(schedule=_baseline(wsd, decay_fraction=0.3)),
        "inverse_sqrt": Rival(schedule=_baseline(inverse_sqrt)),
        "one_cycle": Rival(schedule=_baseline(one_cycle, warmup=0.0)),
        "triangular": Rival(schedule=_baseline(triangular, warmup=0.0)),
        "sgdr": Rival(schedule=_baseline(sgdr)),
        "schedule_free": Rival(
            schedule=_baseline(constant), make_average=partial(ScheduleFree, momentum=0.9)
        ),
        "prodigy": Rival(
            schedule=_baseline(cosine, warmup=0.0), adapt=with_prodigy, is_tuned=False
        ),
        "greedy": Rival(schedule=GreedySource),
        "cosine_long_warmup": Rival(schedule=_baseline(cosine, warmup=LONG_WARMUP)),
        "wsd_long_warmup": Rival(schedule=_baseline(wsd, warmup=LONG_WARMUP, decay_fraction=0.3)),
        "schedule_free_long_warmup": Rival(
            schedule=_baseline(constant, warmup=LONG_WARMUP),
            make_average=partial(ScheduleFree, momentum=0.9),
        ),
    }
)
"""Every rival, by name. ``triangular`` is CLR."""


def train_rival(
    method: str,
    task: TrainingTask,
    *,
    lr: float,
    steps: int,
    seed: int,
    device: torch.device | None = None,
    eval_every: int | None = None,
) -> RunRecord:
    """Train a task by a rival's method; arguments as :func:`train_plain`.

    Raises:
        ValueError: no rival has that name; or as :func:`train_plain`.
    """
    if method not in RIVALS:
        raise ValueError(f"method={method!r} must be one of {', '.join(RIVALS)}")
    rival = RIVALS[method]
    if rival.adapt is not None:
        task = rival.adapt(task)
    peak = lr if rival.is_tuned else PRODIGY_LR
    return train_plain(
        task,
        rival.schedule(steps, peak),
        method=method,
        lr=peak,
        steps=steps,
        seed=seed,
        device=device,
        make_average=rival.make_average,
        eval_every=eval_every,
    )
