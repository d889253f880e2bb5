"""Training with a schedule that is known beforehand, in this process and without a search.

The batches, the model's random numbers and the evaluations are those of a run of AutoLRS with
the same seed, so that two runs differ in their learning rates (LRs) alone.
"""

from __future__ import annotations

import math
import time
from typing import Protocol

import torch

from ray_autolrs.comparison.record import RunRecord
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine

EVALUATIONS = 20
"""Evaluations in a run where none are asked for: to tell when a run reaches another's loss."""

LOOK_EVERY_STEPS = 50
"""Steps between looks for a loss that is not finite."""


class LRSource(Protocol):
    """Gives the LR of each step, like :class:`ray_autolrs.LRSchedule`.

    One that has a method ``tell`` is told the training loss of each step.
    """

    def lr_at(self, step: int) -> float:
        """Return the LR of ``step``; asked once for each step, in order."""


def train_plain(
    task: TrainingTask,
    lrs: LRSource,
    *,
    method: str,
    lr: float | None,
    steps: int,
    seed: int,
    device: torch.device | None = None,
    averaging: Averaging | None = None,
    eval_every: int | None = None,
) -> RunRecord:
    """Train a task and return its losses. A loss that is not finite ends the run as diverged.

    Args:
        task: what to train; its ``test_dataset()``, if it has one, gives the test loss.
        lrs: gives the LR of each step.
        method: for the record.
        lr: for the record: the peak LR.
        steps: optimizer steps.
        seed: of model, batches and evaluations.
        device: where to train; None is the CPU.
        averaging: the average of the weights that evaluations look at.
        eval_every: steps between evaluations; None evaluates about 20 times.

    Raises:
        ValueError: the task's sizes, data or optimizer are refused.
    """
    started_s = time.perf_counter()
    engine = Engine(
        task,
        Solo(),
        device or torch.device("cpu"),
        seed=seed,
        averaging=averaging and averaging.resolve(task.global_batch_size),
    )
    validation = engine.evaluation(task.val_dataset())
    every = eval_every or max(1, steps // EVALUATIONS)
    tell = getattr(lrs, "tell", None)
    curve: list[tuple[int, float]] = []
    is_finite = True
    losses = engine.loss_table(steps)
    for done in engine.steps(0, steps, lrs.lr_at, losses):
        if tell is not None:
            tell(float(losses[done - 1].mean()))
        is_evaluated = done % every == 0 or done == steps
        if is_evaluated or done % LOOK_EVERY_STEPS == 0:
            is_finite = bool(losses[:done].isfinite().all())
        if is_evaluated and is_finite:
            loss = engine.evaluate(validation, done)["loss"]
            is_finite = math.isfinite(loss)
            curve += [(done, loss)] if is_finite else []
        if not is_finite:
            break
    return RunRecord(
        method=method,
        lr=lr,
        seed=seed,
        steps=steps,
        curve=tuple(curve),
        val_loss=curve[-1][1] if is_finite else math.inf,
        test_loss=loss_on_test_set(engine, steps) if is_finite else None,
        diverged=not is_finite,
        seconds=time.perf_counter() - started_s,
    )


def loss_on_test_set(engine: Engine, step: int) -> float | None:
    """Return the loss on the test set after ``step`` steps, or None if the task has none."""
    test_dataset = getattr(engine.replica.task, "test_dataset", None)
    if test_dataset is None:
        return None
    return engine.evaluate(engine.evaluation(test_dataset()), step)["loss"]
