"""One training worker: carries out the stage machine's commands in lock-step with its group.

Losses stay on the device, in a tensor with a place for each micro-batch of each step. They are
looked at every ``divergence_check_steps`` steps: that look is the only time a worker waits for
its device or its group outside of a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.search.strategy import validation_interval
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Probe, ProbeDone
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.bad_batches import UNCOUNTED, fault_message, first_fault
from ray_autolrs.training.batches import validation_subset
from ray_autolrs.training.best_weights import BestWeights
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.engine import Engine, Share
from ray_autolrs.training.evaluation import Evaluation
from ray_autolrs.training.kept_probes import KeptProbe, KeptProbes
from ray_autolrs.training.live_loop import LiveLoop
from ray_autolrs.training.segment_steps import SegmentSteps
from ray_autolrs.training.settings import TrainingSettings
from ray_autolrs.training.snapshot import Snapshot, share_buffers
from ray_autolrs.training.stream_reader import is_stream
from ray_autolrs.training.stream_validation import stream_validation
from ray_autolrs.training.streams import StreamBatches
from ray_autolrs.training.task_checks import dataset_size

Progress = Callable[[int, float], None]
"""Told (steps done in a segment, loss of the last one) at each look at the losses."""


class Worker:
    """A worker's model, data and snapshot.

    Args:
        task: what to train.
        settings: the run's, resolved.
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
        settings: TrainingSettings,
        group: Group,
        device: torch.device,
        *,
        num_workers: int | None = None,
    ) -> None:
        samples = settings.validation.probe_samples
        assert samples is not None, "Validation.resolve comes first"
        self._settings = settings
        self._keeps_best = settings.validation.keep_best and group.rank == 0
        self.engine = Engine(
            task,
            group,
            device,
            seed=settings.seed,
            averaging=settings.averaging,
            num_workers=num_workers,
        )
        if isinstance(self.engine.batches, StreamBatches):
            # Steps since the last look at the losses may be taken, or looked at, again.
            looked_back = settings.divergence_check_steps + 1
            self.engine.batches.look_back = max(self.engine.batches.look_back, looked_back)
        self.group = group
        self.replica = self.engine.replica
        if isinstance(task, LiveLoop):
            self.evaluation = Evaluation(task, task.validation, seed=settings.seed)
            self.probe_evaluation = self.evaluation
        else:
            self.evaluation, self.probe_evaluation = self._evaluations(task.val_dataset(), samples)
        self.snapshot = Snapshot()
        self.best = BestWeights()
        self._kept = KeptProbes()

    def _evaluations(self, data: Any, samples: int) -> tuple[Evaluation, Evaluation]:
        """Return the evaluation on all validation data and that on some of their samples."""
        task, seed = self.replica.task, self._settings.seed
        if is_stream(data):
            batches = stream_validation(task, data, self.engine.eval_batch_size, seed)
            part = batches.part(samples, seed)
            return Evaluation(task, batches, seed=seed), Evaluation(task, part, seed=seed)
        subset = validation_subset(dataset_size(data, "val_dataset"), samples, seed)
        return self.engine.evaluation(data), self.engine.evaluation(data, subset)

    def take_snapshot(self, step: int) -> None:
        """Capture the state before applied step ``step``: what probes and stages start from."""
        share_buffers(self.replica.module, self.group)
        self.snapshot.capture(self.replica, step)
        self._kept.forget()

    def averaged(self, step: int) -> AbstractContextManager[None]:
        """Let the module hold the weights to be judged, as :meth:`Engine.averaged` does."""
        return self.engine.averaged(step)

    def check_first_loss(self) -> None:
        """Refuse a loss or metrics that cannot be trained with, before anything is trained.

        Raises:
            ValueError: on every worker, if one's loss is no scalar tensor or not finite, or the
                metrics of the first validation batch are not what they must be.
        """
        step, task = self.snapshot.restore(self.replica), self.replica.task
        is_finite = self.engine.first_loss_is_finite(step)
        if not is_finite:
            looks_back = self.replica.can_look_back and self.group.rank == 0
            fault = first_fault(self.engine, step) if looks_back else None
            fault = self.group.broadcast_object(fault)
            if fault is None:
                raise ValueError(
                    f"{type(task).__name__}.loss is not finite at step {step}, before any update; "
                    "it must be finite: check the data and the model's initial weights"
                )
            if fault != UNCOUNTED and task.on_bad_batch == "raise":
                text = fault_message(self.engine, step, fault, when="before any update")
                raise ValueError(text)
        if not isinstance(task, LiveLoop):
            self.evaluation.check(self.replica)
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
        started_s = time.perf_counter()
        eval_steps: frozenset[int] = frozenset()
        if probe.evals > 0:
            every = validation_interval(probe.evals, probe.steps)
            eval_steps = frozenset(every * number for number in range(1, probe.evals + 1))
        outcome = self._run_segment(
            probe.segment,
            progress,
            self.probe_evaluation,
            eval_steps,
            self.engine.alone if alone else self.engine.together,
        )
        in_step = not alone or self.group.size == 1
        if probe.may_go_on and in_step and not outcome.diverged:
            self._kept.keep(self.replica, probe, outcome.losses, outcome.skipped_steps)
        evals = len(outcome.evaluations)
        return ProbeDone(
            stage=probe.stage,
            index=probe.index,
            training_losses=outcome.losses,
            validation_losses=tuple(means["loss"] for _, means in outcome.evaluations),
            diverged=outcome.diverged,
            wall_s=time.perf_counter() - started_s,
            forward_steps=self.engine.forward_steps(evals, self.probe_evaluation),
            skipped_steps=outcome.skipped_steps,
        )

    def run_apply(self, apply: Apply, progress: Progress) -> ApplyDone:
        """Train with the chosen LR from the snapshot, and evaluate on the whole validation set."""
        started_s = time.perf_counter()
        every = self._settings.validation.every_steps or apply.steps
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
            self.engine.together,
            best=best,
            kept=kept,
        )
        if not outcome.diverged:  # one that did is applied again, with another LR
            self.best.take(best)
        return ApplyDone(
            stage=apply.stage,
            attempt=apply.attempt,
            training_losses=outcome.losses,
            diverged=outcome.diverged,
            wall_s=time.perf_counter() - started_s,
            evaluations=tuple(
                (apply.segment.first_step + steps, name, value)
                for steps, means in outcome.evaluations
                for name, value in means.items()
            ),
            reused_steps=len(kept.losses) if kept else 0,
            skipped_steps=outcome.skipped_steps,
        )

    def _run_segment(
        self,
        segment: Segment,
        progress: Progress,
        evaluation: Evaluation,
        eval_steps: frozenset[int],
        share: Share,
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
            share: who takes the steps.
            best: offered the weights of each evaluation, which also takes the task's metrics.
            kept: the state after the segment's first steps, which are not taken again.
        """
        first_step = self.snapshot.restore(self.replica)
        assert first_step == segment.first_step, (first_step, segment)
        end_step = segment.last_step + 1
        self.engine.batches.begin(first_step, end_step, is_probe=best is None)
        if self.engine.rehearse(first_step, share):
            self.snapshot.restore(self.replica)
        losses: list[float] = []
        evaluations: list[tuple[int, dict[str, float]]] = []

        def evaluate(done: int) -> float:
            with self.engine.averaged(first_step + done, share.group):
                means = evaluation.run(self.replica, share.group, with_metrics=best is not None)
                if best is not None and self._keeps_best:
                    best.offer(self.replica.module, first_step + done, means["loss"])
            evaluations.append((done, means))
            return means["loss"]

        if kept is not None:
            kept.end.restore(self.replica)
            losses += kept.losses
        every = self._settings.divergence_check_steps
        looks = {*range(every, segment.steps, every), segment.steps, *eval_steps}
        steps = SegmentSteps(self.engine, segment, share, self.snapshot, losses, looks)
        before_skipped = kept.skipped_steps if kept is not None else 0

        def outcome(*, diverged: bool) -> _Outcome:
            skipped = before_skipped + len(steps.skipped)
            return _Outcome(tuple(losses), diverged, tuple(evaluations), skipped)

        if len(losses) in eval_steps and not math.isfinite(evaluate(len(losses))):
            steps.check_validation(evaluation, len(losses))
            return outcome(diverged=True)
        for done, latest in steps.looks():
            latest_loss = evaluate(done) if done in eval_steps else latest[-1]
            losses += latest
            progress(done, latest_loss)
            if not all(map(math.isfinite, latest)):
                return outcome(diverged=True)
            if not math.isfinite(latest_loss):
                steps.check_validation(evaluation, done)
                return outcome(diverged=True)
        return outcome(diverged=False)


@dataclass(frozen=True, slots=True)
class _Outcome:
    losses: tuple[float, ...]
    diverged: bool
    evaluations: tuple[tuple[int, dict[str, float]], ...]
    skipped_steps: int
