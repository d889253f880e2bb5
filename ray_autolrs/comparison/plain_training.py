"""Training with a schedule that is known beforehand, in this process and without a search.

The batches, the model's random numbers and the evaluations are those of a run of AutoLRS with
the same seed, so that two runs differ in their learning rates (LRs) alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.optim import Optimizer
from torch.utils.data import Dataset

from ray_autolrs.comparison.record import RunRecord
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.averaging import NoAverage, WeightAverage
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.evaluation import Evaluation
from ray_autolrs.training.replica import Replica

EVALUATIONS = 20
"""Evaluations in a run where none are asked for: to tell when a run reaches another's loss."""

CALIBRATION_BATCHES = 20
"""Training batches from which BatchNorm's statistics are taken anew at averaged weights."""

LOOK_EVERY_STEPS = 50
"""Steps between looks for a loss that is not finite."""


class LRSource(Protocol):
    """Gives the LR of each step, like :class:`ray_autolrs.LRSchedule`.

    One that has a method ``tell`` is told the training loss of each step.
    """

    def lr_at(self, step: int) -> float:
        """Return the LR of ``step``; asked once for each step, in order."""


class PlainRun:
    """A model, its optimizer and its data.

    Args:
        task: what to train; its ``test_dataset()``, if it has one, gives the test loss.
        seed: of model, batches and evaluations.
        device: where the model lives.
        make_average: the average of the weights that evaluations look at; none by default.
    """

    def __init__(
        self,
        task: TrainingTask,
        *,
        seed: int,
        device: torch.device,
        make_average: Callable[[Optimizer], WeightAverage] = NoAverage,
    ) -> None:
        micro_batch_size = task.resolved_micro_batch_size(1)
        self._group = Solo()
        self._task = task
        self._seed = seed
        self._eval_batch_size = task.eval_batch_size or micro_batch_size
        self.batches = StepBatches(task, micro_batch_size=micro_batch_size, seed=seed)
        self.replica = Replica(task, self._group, device, seed, make_average)
        self._validation = self._evaluation(task.val_dataset())

    def steps(self, lrs: LRSource, first: int, count: int) -> bool:
        """Take steps ``first`` to ``first + count - 1``, and tell whether all losses are finite."""
        micros = range(self.batches.micro_batches)
        shape = (count, len(micros))
        losses = torch.zeros(shape, dtype=torch.float64, device=self.replica.device)
        for place, batch in enumerate(self.batches.stream(first, count, micros)):
            step = first + place
            self.replica.take_step(step, batch, micros, lrs.lr_at(step), losses[place], alone=True)
            tell = getattr(lrs, "tell", None)
            if tell is not None:
                tell(float(losses[place].mean()))
        return bool(torch.isfinite(losses).all())

    def validation_loss(self, step: int) -> float:
        """Return the loss on the whole validation set, at the averaged weights."""
        return self._loss(self._validation, step)

    def test_loss(self, step: int) -> float | None:
        """Return the loss on the test set likewise, or None if the task has none."""
        test_dataset = getattr(self._task, "test_dataset", None)
        if test_dataset is None:
            return None
        return self._loss(self._evaluation(test_dataset()), step)

    def _evaluation(self, dataset: Dataset[Any]) -> Evaluation:
        return Evaluation(self._task, dataset, self._eval_batch_size, seed=self._seed)

    def _loss(self, evaluation: Evaluation, step: int) -> float:
        recent = range(max(0, step - CALIBRATION_BATCHES), step)
        with self.replica.averaged(self.batches.micro(earlier, 0) for earlier in recent):
            return evaluation.run(self.replica, self._group, with_metrics=False)["loss"]


def train_plain(
    task: TrainingTask,
    lrs: LRSource,
    *,
    method: str,
    lr: float | None,
    steps: int,
    seed: int,
    device: torch.device | None = None,
    make_average: Callable[[Optimizer], WeightAverage] = NoAverage,
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
        make_average: builds the average of the weights that evaluations look at, from the
            optimizer.
        eval_every: steps between evaluations; None evaluates about 20 times.

    Raises:
        ValueError: the task's sizes, data or optimizer are refused.
    """
    started = time.perf_counter()
    run = PlainRun(task, seed=seed, device=device or torch.device("cpu"), make_average=make_average)
    every = eval_every or max(1, steps // EVALUATIONS)
    stops = sorted({*range(every, steps, every), *range(LOOK_EVERY_STEPS, steps, LOOK_EVERY_STEPS)})
    curve: list[tuple[int, float]] = []
    done, is_finite = 0, True
    for stop in [*stops, steps]:
        is_finite = run.steps(lrs, done, stop - done)
        done = stop
        if is_finite and (done % every == 0 or done == steps):
            loss = run.validation_loss(done)
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
        test_loss=run.test_loss(done) if is_finite else None,
        diverged=not is_finite,
        seconds=time.perf_counter() - started,
    )
