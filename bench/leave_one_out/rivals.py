"""The rivals: schedules, one fixed optimizer for all tasks, ScheduleFree+."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from bench.leave_one_out.methods import LRs, Method, Trained
from bench.schedule_free_plus import LastLoss, ScheduleFreePlus, telling_its_loss
from bench.tasks.kinds import BenchTask
from bench.tasks.suite import SuiteTask
from ray_autolrs.comparison.baselines import BASELINES, WARMUP, train_baseline
from ray_autolrs.comparison.plain_training import train_plain
from ray_autolrs.task import TrainingTask

RIVALS_VERSION = 1
"""Of the rivals' code: raise it when that changes what they do."""


@dataclass(frozen=True)
class Rival(Method):
    """A baseline of the package's comparison."""

    name: str

    def facts(self) -> dict[str, Any]:
        baseline = BASELINES[self.name]
        return {
            "version": RIVALS_VERSION,
            "name": self.name,
            "warmup": baseline.warmup,
            "averaging": repr(baseline.averaging),
        }

    def lrs(self, task: SuiteTask) -> LRs:
        fixed_lr = BASELINES[self.name].fixed_lr
        if fixed_lr is not None:
            return (fixed_lr,)
        return task.schedule_free_lrs if self.name.startswith("schedule_free") else task.lrs

    def train(
        self, task: BenchTask, suite_task: SuiteTask, *, lr: float | None, steps: int, seed: int
    ) -> Trained:
        assert lr is not None
        return train_baseline(self.name, task, lr=lr, steps=steps, seed=seed), None


@dataclass(frozen=True)
class FixedOptimizer(Method):
    """One optimizer at one setting for all tasks, with a cosine after a warm-up of 5%."""

    name: str
    build: Callable[[list[nn.Parameter]], Optimizer]
    lr: float

    def facts(self) -> dict[str, Any]:
        return {"version": RIVALS_VERSION, "name": self.name, "lr": self.lr}

    def lrs(self, task: SuiteTask) -> LRs:
        return (self.lr,)

    def train(
        self, task: BenchTask, suite_task: SuiteTask, *, lr: float | None, steps: int, seed: int
    ) -> Trained:
        copied = copy.copy(task)
        copied.build_optimizer = self._optimizer  # type: ignore[method-assign]
        record = train_baseline("cosine", copied, lr=self.lr, steps=steps, seed=seed)
        return dataclasses.replace(record, method=self.name), None

    def _optimizer(self, model: nn.Module) -> Optimizer:
        return self.build([weight for weight in model.parameters() if weight.requires_grad])


@dataclass(frozen=True)
class Plus(Method):
    """ScheduleFree+ by its formulas; with the Polyak step the LR multiplies that."""

    name: str
    polyak: bool

    def facts(self) -> dict[str, Any]:
        return {"version": RIVALS_VERSION, "name": self.name, "polyak": self.polyak}

    def lrs(self, task: SuiteTask) -> LRs:
        if self.polyak:
            return (0.25, 0.5, 1.0, 2.0, 4.0)
        # Averages want LRs two to four times a schedule's: the rivals' grid, one place higher.
        return (*task.lrs[1:], task.lrs[-1] * 10 / 3)

    def train(
        self, task: BenchTask, suite_task: SuiteTask, *, lr: float | None, steps: int, seed: int
    ) -> Trained:
        assert lr is not None
        trained: TrainingTask = task
        last = LastLoss() if self.polyak else None
        if last is not None:
            trained = telling_its_loss(task, last)
        average = ScheduleFreePlus(
            steps=steps, equal_steps=round(2 * WARMUP * steps), last_loss=last
        )
        record = train_plain(
            trained,
            BASELINES["constant"].lrs(steps, lr),
            method=self.name,
            lr=lr,
            steps=steps,
            seed=seed,
            averaging=average,
        )
        return record, None


def adamw(weights: list[nn.Parameter]) -> Optimizer:
    """Return AdamW at the LR and weight decay that are its usual ones."""
    return AdamW(weights, lr=1e-3, weight_decay=0.01)


def sgd(weights: list[nn.Parameter]) -> Optimizer:
    """Return SGD with momentum at its usual LR."""
    return SGD(weights, lr=0.1, momentum=0.9)
