"""The one loop that takes optimizer steps, and what it trains: a model, its data, an average.

A run's stages and probes, runs with a schedule known beforehand, the LR sweep and the timing of
steps differ in the LRs that they give and in when they look at the losses.

Example::

    engine = Engine(task, Solo(), device, seed=0)
    losses = engine.loss_table(100)
    for done in engine.steps(0, 100, schedule.lr_at, losses):
        if done % 10 == 0 and not losses[:done].isfinite().all():  # waits for the device
            break
    validation = engine.evaluation(task.val_dataset())
    engine.evaluate(validation, step=100)["loss"]
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ray_autolrs.task import TrainingTask
from ray_autolrs.training.averaging.average import CALIBRATION_BATCHES, Averaging
from ray_autolrs.training.averaging.batch_norm import running_norms
from ray_autolrs.training.averaging.no_average import NoAverage
from ray_autolrs.training.batches import Batches
from ray_autolrs.training.collectives import Group, Solo
from ray_autolrs.training.evaluation import Evaluation, validation_batches
from ray_autolrs.training.live_loop import LiveLoop
from ray_autolrs.training.replica import Replica
from ray_autolrs.training.stream_reader import is_stream
from ray_autolrs.training.stream_validation import stream_validation
from ray_autolrs.training.streams import StreamBatches, training_batches
from ray_autolrs.training.task_checks import checked_loss, told_by_name


@dataclass(frozen=True, slots=True)
class Share:
    """Those who take a step together, and what of it is this worker's.

    Attributes:
        group: they average their gradients and sum up their losses.
        micros: numbers of this worker's micro-batches in the global batch.
    """

    group: Group
    micros: range


class Engine:
    """A model, its optimizer and its data, and how they take steps.

    Args:
        task: what to train.
        group: the workers in lock-step.
        device: where the model lives.
        seed: of the model, the batches and the evaluations.
        averaging: the average of the weights that evaluations look at, resolved; None has none.
        num_workers: workers whose micro-batches a global batch is cut into; None is the group's
            size.
        follows_path: whether to follow how far the weights come.

    Attributes:
        group: as given.
        batches: the training batches.
        replica: the model and its optimizer.
        together: the share of each worker of the group.
        alone: the whole global batch, taken without the others.
        data_wait_s: seconds that all steps so far have waited for their batches.

    Raises:
        ValueError: the task's sizes, data or optimizer are refused.
    """

    def __init__(
        self,
        task: TrainingTask,
        group: Group,
        device: torch.device,
        *,
        seed: int,
        averaging: Averaging | None = None,
        num_workers: int | None = None,
        follows_path: bool = False,
    ) -> None:
        task.check_settings()
        micro_batch_size = task.resolved_micro_batch_size(num_workers or group.size)
        self.group = group
        self.batches: Batches
        if isinstance(task, LiveLoop):
            self.batches = task.batches
        else:
            self.batches = training_batches(
                task,
                group,
                micro_batch_size=micro_batch_size,
                seed=seed,
                pin_memory=device.type == "cuda",
            )
        self.replica = Replica(task, group, device, seed, averaging, follows_path=follows_path)
        if self.replica.is_sharded and isinstance(self.batches, StreamBatches):
            self._without_looking_back(task)
        share = self.batches.micro_batches // group.size
        self.together = Share(group, range(group.rank * share, (group.rank + 1) * share))
        self.alone = Share(Solo(), range(self.batches.micro_batches))
        self.data_wait_s = 0.0
        self._micro_batch_size = micro_batch_size
        # An optimizer may keep an average that no setting asks for.
        self._calibration_batches = (
            averaging.calibration_batches
            if averaging is not None
            else CALIBRATION_BATCHES * (not isinstance(self.replica.average, NoAverage))
        )
        if isinstance(self.batches, StreamBatches) and running_norms(self.replica.module):
            self.batches.look_back = self._calibration_batches
        self._is_rehearsed = False

    def _without_looking_back(self, task: TrainingTask) -> None:
        """Of a stream each worker has its own share, and a sharded model needs all on the same."""
        self.replica.can_look_back = False
        if task.on_bad_batch == "skip":
            name = type(task).__name__
            raise ValueError(
                f"{name}.on_bad_batch='skip' needs a map-style train_dataset() with "
                f"{name}.parallelism='fsdp2': all workers look at a bad batch together, and each "
                "has read its own share of a stream"
            )

    def loss_table(self, steps: int) -> Tensor:
        """Return zeros for the losses of steps, on the device.

        Returns:
            Shape (steps, micro-batches in the global batch), in float64, which holds every loss
            exactly. Other workers' places stay zero until they are summed up.
        """
        shape = (steps, self.batches.micro_batches)
        return torch.zeros(shape, dtype=torch.float64, device=self.replica.device)

    def steps(
        self,
        first_step: int,
        count: int,
        lr_at: Callable[[int], float],
        losses: Tensor,
        *,
        share: Share | None = None,
    ) -> Iterator[int]:
        """Take steps, and yield after each one how many are done, from 1; it may be left early.

        Nothing waits for the device. (float16's gradient scaler does.)

        Args:
            first_step: number of the first step.
            count: steps to take.
            lr_at: gives the LR of the first parameter group, and is asked right before the step.
            losses: shape (at least count, micro-batches); a row for each step, as
                :meth:`loss_table` makes them. A step writes this worker's places.
            share: who takes them; ``together`` by default.
        """
        share = share or self.together
        stream = self.batches.stream(first_step, count, share.micros)
        for place in range(count):
            asked_s = time.perf_counter()
            batches = next(stream)
            self.data_wait_s += time.perf_counter() - asked_s
            step = first_step + place
            self.replica.take_step(
                step,
                batches,
                share.micros,
                lr_at(step),
                losses[place],
                alone=share.group.size == 1,
            )
            yield place + 1

    def mean_losses(self, table: Tensor, group: Group | None = None) -> list[float]:
        """Return each step's mean loss over all micro-batches; every worker gets the same."""
        summed = table.clone()
        (group or self.group).sum_(summed)
        mean: list[float] = summed.mean(dim=1).tolist()
        return mean

    def micro_losses(self, table: Tensor, group: Group | None = None) -> Tensor:
        """Return the loss of each step's micro-batches, all workers' ones, on the CPU."""
        summed = table.clone()
        (group or self.group).sum_(summed)
        return summed.cpu()

    def rehearse(self, step: int, share: Share) -> bool:
        """Rehearse a step if several workers take their first together, and tell whether.

        :meth:`Replica.rehearse` tells why; the caller puts buffers and random states back.
        """
        if share.group.size == 1 or self._is_rehearsed:
            return False
        batches = next(self.batches.stream(step, 1, share.micros))
        self.replica.rehearse(step, batches, share.micros, self.loss_table(1)[0])
        self._is_rehearsed = True
        return True

    def first_loss_is_finite(self, step: int) -> bool:
        """Return whether each worker's first loss is. It changes buffers and random states.

        Raises:
            ValueError: the loss is no tensor of shape () that depends on the model.
        """
        replica, micro = self.replica, self.together.micros[0]
        with told_by_name(replica.task, "a batch of train_dataset, joined by collate,"):
            batch = self.batches.micro(step, micro)
        # A graph without a backward pass would leave layers of a sharded model whole.
        traced = replica.can_look_back and not replica.is_sharded
        with (
            told_by_name(replica.task, "loss, on a batch of train_dataset joined by collate,"),
            contextlib.nullcontext() if traced else replica.forward_only(),
        ):
            loss = replica.loss_alone(step, micro, batch)
        loss = checked_loss(replica.task, loss, replica.device, has_gradient=traced)
        # The sum, so that no worker goes on to wait for one that has raised.
        total = loss.detach().to(torch.float64)
        self.group.sum_(total)
        return bool(torch.isfinite(total))

    @property
    def eval_batch_size(self) -> int:
        """Samples in one forward pass of an evaluation."""
        return self.replica.task.eval_batch_size or self._micro_batch_size

    def evaluation(self, dataset: Any, indices: Sequence[int] | None = None) -> Evaluation:
        """Return an evaluation on a dataset, or on the samples of it with these indices."""
        task, seed = self.replica.task, self.replica.seed
        if indices is None and is_stream(dataset):
            streamed = stream_validation(task, dataset, self.eval_batch_size, seed)
            return Evaluation(task, streamed, seed=seed)
        batches = validation_batches(task, dataset, self.eval_batch_size, indices, seed=seed)
        return Evaluation(task, batches, seed=seed)

    def evaluate(self, evaluation: Evaluation, step: int) -> dict[str, float]:
        """Return an evaluation's means at the averaged weights, as they are after ``step`` steps.

        Returns:
            ``"loss"`` alone, without the task's metrics.
        """
        with self.averaged(step):
            return evaluation.run(self.replica, self.group, with_metrics=False)

    def averaged(self, step: int, group: Group | None = None) -> AbstractContextManager[None]:
        """Let the module hold the weights to be judged, as they are after ``step`` steps.

        BatchNorm's statistics are right on the group's rank 0: an evaluation shares them.
        """
        return self.replica.averaged(self._calibration(step, group or self.group))

    def _calibration(self, step: int, group: Group) -> Iterator[Any]:
        """Yield the first micro-batch of each of the latest steps, on rank 0.

        Where a forward pass needs every worker, each yields its own.
        """
        together = self.replica.is_sharded
        if group.rank == 0 or together:
            micro = self.together.micros[0] if together else 0
            for earlier in range(max(0, step - self._calibration_batches), step):
                yield self.batches.micro(earlier, micro)

    def forward_steps(self, evals: int, evaluation: Evaluation) -> float:
        """Return what evaluations cost, in steps; a step is a forward and two backward passes."""
        samples = evaluation.samples
        if running_norms(self.replica.module):
            samples += self._calibration_batches * self._micro_batch_size
        return evals * samples / (3 * self.replica.task.global_batch_size)
