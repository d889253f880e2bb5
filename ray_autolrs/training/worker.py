"""One training worker: carries out the stage machine's commands in lock-step with its group.

Losses stay on the device, in a tensor with a place for each micro-batch of each step. They are
looked at every ``divergence_check_steps`` steps: that look is the only time a worker waits for
its device or its group outside of a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ray_autolrs.algorithm.schedules.run_shape import run_shape
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.stage_plan import validation_interval
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Probe, ProbeDone
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.averaging import NoAverage, average_of
from ray_autolrs.training.batches import StepBatches, dataset_size, validation_subset
from ray_autolrs.training.best_weights import BestWeights
from ray_autolrs.training.collectives import Group, Solo
from ray_autolrs.training.evaluation import Evaluation
from ray_autolrs.training.kept_probes import KeptProbe, KeptProbes
from ray_autolrs.training.replica import Replica, running_norms
from ray_autolrs.training.snapshot import Snapshot, share_buffers

Progress = Callable[[int, float], None]
"""Told (steps done in a segment, loss of the last one) at each look at the losses."""


class Worker:
    """A worker's model, data and snapshot.

    Args:
        task: what to train.
        config: the run's settings.
        group: the workers in lock-step.
        device: where the model lives.
        num_workers: workers whose micro-batches a global batch is cut into; None is the group's
            size.

    Raises:
        ValueError: the task's sizes, data, optimizer or loss are refused.
    """

    def __init__(
        self,
        task: TrainingTask,
        config: AutoLRSConfig,
        group: Group,
        device: torch.device,
        *,
        num_workers: int | None = None,
    ) -> None:
        task.check_settings()
        micro_batch_size = task.resolved_micro_batch_size(num_workers or group.size)
        self.config = config
        self.group = group
        self.batches = StepBatches(
            task,
            micro_batch_size=micro_batch_size,
            seed=config.seed,
            pin_memory=device.type == "cuda",
        )
        share = self.batches.micro_batches // group.size
        self._together = _Lane(group, range(group.rank * share, (group.rank + 1) * share))
        self._alone = _Lane(Solo(), range(self.batches.micro_batches))
        val_dataset = task.val_dataset()
        eval_batch_size = task.eval_batch_size or micro_batch_size
        val_size = dataset_size(val_dataset, "val_dataset")
        self.evaluation = Evaluation(task, val_dataset, eval_batch_size, seed=config.seed)
        subset = validation_subset(
            val_size, config.probe_validation_samples(task.global_batch_size), config.seed
        )
        self.probe_evaluation = Evaluation(
            task, val_dataset, eval_batch_size, subset, seed=config.seed
        )
        make_average = partial(average_of, config=config, global_batch_size=task.global_batch_size)
        self.replica = Replica(task, group, device, config.seed, make_average)
        self.snapshot = Snapshot()
        self.best = BestWeights()
        self._kept = KeptProbes()
        self._is_rehearsed = False

    def take_snapshot(self, step: int) -> None:
        """Capture the state before applied step ``step``: what probes and stages start from."""
        share_buffers(self.replica.module, self.group)
        self.snapshot.capture(self.replica, step)
        self._kept.forget()

    @contextmanager
    def averaged(self, step: int, group: Group | None = None) -> Iterator[None]:
        """Let the module hold the weights to be judged, as they are after ``step`` steps.

        BatchNorm's statistics are right on the group's rank 0: an evaluation shares them.
        """
        with self.replica.averaged(self._calibration_batches(step, group or self.group)):
            yield

    def _calibration_batches(self, step: int, group: Group) -> Iterator[Any]:
        """Yield the first micro-batch of each of the latest steps, on rank 0."""
        if group.rank == 0:
            for earlier in range(max(0, step - self.config.calibration_batches), step):
                yield self.batches.micro(earlier, 0)

    def _forward_steps(self, evals: int, evaluation: Evaluation) -> float:
        """Return what evaluations cost, in steps; a step is a forward and two backward passes."""
        samples = evaluation.samples
        if running_norms(self.replica.module) and not isinstance(self.replica.average, NoAverage):
            micro_batch = self.replica.task.global_batch_size // self.batches.micro_batches
            samples += self.config.calibration_batches * micro_batch
        return evals * samples / (3 * self.replica.task.global_batch_size)

    def check_first_loss(self) -> None:
        """Refuse a loss that cannot be trained on, as :meth:`Replica.check_first_loss` does."""
        step, micro = self.snapshot.restore(self.replica), self._together.micros[0]
        self.replica.check_first_loss(step, micro, self.batches.micro(step, micro), self.group)
        self.snapshot.restore(self.replica)

    def run_probe(self, probe: Probe, progress: Progress, *, alone: bool = False) -> ProbeDone:
        """Try an LR from the snapshot, and return its losses.

        Args:
            probe: the command.
            progress: told at each look at the losses.
            alone: train on the whole global batch without the other workers, who need not run
                the same probe. With one micro-batch for each worker, and a power of two of
                them, the losses are equal to the last bit either way.
        """
        started = time.perf_counter()
        lane = self._alone if alone else self._together
        eval_steps: frozenset[int] = frozenset()
        if probe.evals > 0:
            every = validation_interval(probe.evals, probe.steps)
            eval_steps = frozenset(every * number for number in range(1, probe.evals + 1))
        outcome = self._run_segment(
            probe.segment, progress, self.probe_evaluation, eval_steps, lane
        )
        losses = outcome.losses
        training_losses: tuple[float, ...] = ()
        if probe.evals > 0:
            losses = tuple(means["loss"] for _, means in outcome.evaluations)
            training_losses = outcome.losses
        may_go_on = probe.segment.shape == run_shape(self.config)
        if may_go_on and not (alone or outcome.diverged):
            self._kept.keep(self.replica, probe, outcome.losses)
        return ProbeDone(
            stage=probe.stage,
            index=probe.index,
            losses=losses,
            diverged=outcome.diverged,
            steps=len(outcome.losses),
            wall_s=time.perf_counter() - started,
            first_loss=outcome.losses[0],
            forward_steps=self._forward_steps(len(outcome.evaluations), self.probe_evaluation),
            training_losses=training_losses,
        )

    def run_apply(self, apply: Apply, progress: Progress) -> ApplyDone:
        """Train with the chosen LR from the snapshot, and evaluate on the whole validation set."""
        started = time.perf_counter()
        every = self.config.eval_every_steps or apply.steps
        eval_steps = frozenset({*range(every, apply.steps, every), apply.steps})
        kept = self._kept.state_for(apply)
        if kept is not None and min(eval_steps) < len(kept.losses):
            kept = None  # An evaluation lies within the steps that would be left out.
        best = BestWeights(to_beat=self.best.loss)
        outcome = self._run_segment(
            apply.segment,
            progress,
            self.evaluation,
            eval_steps,
            self._together,
            best=best,
            kept=kept,
        )
        if not outcome.diverged:  # one that did is applied again, with another LR
            self.best.take(best)
        return ApplyDone(
            stage=apply.stage,
            lr=apply.segment.multiplier,
            losses=outcome.losses,
            diverged=outcome.diverged,
            wall_s=time.perf_counter() - started,
            evaluations=tuple(
                (apply.segment.first_step + steps, name, value)
                for steps, means in outcome.evaluations
                for name, value in means.items()
            ),
            reused_steps=len(kept.losses) if kept else 0,
        )

    def _run_segment(
        self,
        segment: Segment,
        progress: Progress,
        evaluation: Evaluation,
        eval_steps: frozenset[int],
        lane: _Lane,
        *,
        best: BestWeights | None = None,
        kept: KeptProbe | None = None,
    ) -> _Outcome:
        """Restore the snapshot, take the segment's steps, and stop early if the loss diverges.

        Args:
            segment: the LRs.
            progress: told at each look at the losses.
            evaluation: what to run after the steps, counted from 1, in ``eval_steps``.
            eval_steps: see ``evaluation``.
            lane: who takes the steps.
            best: offered the weights of each evaluation, which also takes the task's metrics.
            kept: the state after the segment's first steps, which are not taken again.
        """
        first_step = self.snapshot.restore(self.replica)
        assert first_step == segment.first_step, (first_step, segment)
        # float64 holds every loss exactly; other workers' places stay zero until they are summed.
        table = torch.zeros(
            segment.steps,
            self.batches.micro_batches,
            dtype=torch.float64,
            device=self.replica.device,
        )
        if lane.group.size > 1 and not self._is_rehearsed:
            rehearsal = next(self.batches.stream(first_step, 1, lane.micros))
            self.replica.rehearse(first_step, rehearsal, lane.micros, table[0])
            self._is_rehearsed = True
            self.snapshot.restore(self.replica)
        losses: list[float] = []
        evaluations: list[tuple[int, dict[str, float]]] = []

        def evaluate(done: int) -> float:
            with self.averaged(first_step + done, lane.group):
                means = evaluation.run(self.replica, lane.group, with_metrics=best is not None)
                if best is not None and self.config.keep_best and lane.group.rank == 0:
                    best.offer(self.replica.module, first_step + done, means["loss"])
            evaluations.append((done, means))
            return means["loss"]

        if kept is not None:
            kept.end.restore(self.replica)
            losses += kept.losses
            if len(losses) in eval_steps and not math.isfinite(evaluate(len(losses))):
                return _Outcome(tuple(losses), True, tuple(evaluations))
        left = segment.steps - len(losses)
        stream = self.batches.stream(first_step + len(losses), left, lane.micros)
        for done, batch in enumerate(stream, start=len(losses) + 1):
            step = first_step + done - 1
            self.replica.take_step(
                step,
                batch,
                lane.micros,
                segment.lr_at(step),
                table[done - 1],
                alone=lane.group.size == 1,
            )
            look = done % self.config.divergence_check_steps == 0 or done == segment.steps
            if not (look or done in eval_steps):
                continue
            latest = _mean_losses(table[len(losses) : done], lane.group)
            latest_loss = evaluate(done) if done in eval_steps else latest[-1]
            losses += latest
            progress(done, latest_loss)
            if not (all(map(math.isfinite, latest)) and math.isfinite(latest_loss)):
                return _Outcome(tuple(losses), True, tuple(evaluations))
        return _Outcome(tuple(losses), False, tuple(evaluations))


def _mean_losses(table: Tensor, group: Group) -> list[float]:
    """Return each step's mean loss over all micro-batches; every worker gets the same."""
    summed = table.clone()
    group.sum_(summed)
    mean: list[float] = summed.mean(dim=1).tolist()
    return mean


@dataclass(frozen=True, slots=True)
class _Lane:
    """Those who take a step together, and this worker's micro-batches of the global batch."""

    group: Group
    micros: range


@dataclass(frozen=True, slots=True)
class _Outcome:
    losses: tuple[float, ...]
    diverged: bool
    evaluations: tuple[tuple[int, dict[str, float]], ...]
