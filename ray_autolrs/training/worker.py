"""One training worker: carries out the stage machine's commands in lock-step with its group.

Losses stay on the device, in a tensor with a place for each micro-batch of each step. They are
looked at every ``divergence_check_steps`` steps: that look is the only time a worker waits for
its device or its group outside of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch

from ray_autolrs.algorithm.search.strategy import validation_interval
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Probe, ProbeDone
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.bad_batches import UNCOUNTED, fault_message, first_fault
from ray_autolrs.training.batches import validation_subset
from ray_autolrs.training.begun_segment import BegunSegment, command_name
from ray_autolrs.training.best_weights import BestWeights
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.engine import Engine
from ray_autolrs.training.evaluation import Evaluation
from ray_autolrs.training.kept_probes import KeptProbes
from ray_autolrs.training.live_loop import LiveLoop
from ray_autolrs.training.segment_run import Progress, SegmentKeeper, SegmentRun
from ray_autolrs.training.settings import TrainingSettings
from ray_autolrs.training.snapshot import Snapshot, share_buffers
from ray_autolrs.training.stream_reader import is_stream
from ray_autolrs.training.stream_validation import stream_validation
from ray_autolrs.training.streams import StreamBatches
from ray_autolrs.training.task_checks import dataset_size


class Worker:
    """A worker's model, data and snapshot.

    Args:
        task: what to train.
        settings: the run's, resolved.
        group: the workers in lock-step.
        device: where the model lives.
        num_workers: workers whose micro-batches a global batch is cut into; None is the group's
            size.

    Attributes:
        snapshot: the state that probes and stages start from.
        best: the best weights so far, of the stages that are applied.
        begun: a probe or stage that a checkpoint holds the first steps of, if any; the first
            command goes on from it, if it is that one.
        keeper: keeps how far a segment is that all workers run together, if anybody does.

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
        self._settings = settings
        self.engine = Engine(
            task,
            group,
            device,
            seed=settings.seed,
            averaging=settings.averaging,
            num_workers=num_workers,
            follows_path=settings.follows_path,
        )
        if isinstance(self.engine.batches, StreamBatches):
            # Steps since the last look at the losses may be taken, or looked at, again.
            looked_back = settings.divergence_check_steps + 1
            self.engine.batches.look_back = max(self.engine.batches.look_back, looked_back)
        self.group = group
        self.replica = self.engine.replica
        self._keeps_best = settings.validation.keep_best and self.gathers_model
        if isinstance(task, LiveLoop):
            self.evaluation = Evaluation(task, task.validation, seed=settings.seed)
            self._probe_evaluation: Callable[[int], Evaluation] = lambda factor: self.evaluation
        else:
            self.evaluation, part = self._evaluations(task.val_dataset())
            self._probe_evaluation = cache(part)
        self.snapshot = Snapshot()
        self.best = BestWeights()
        self.begun: BegunSegment | None = None
        self.keeper: SegmentKeeper | None = None
        self._kept = KeptProbes()

    def _evaluations(self, data: Any) -> tuple[Evaluation, Callable[[int], Evaluation]]:
        """Return the evaluation on all validation data, and what gives that of probes."""
        task, seed = self.replica.task, self._settings.seed
        samples = self._settings.validation.probe_samples
        assert samples is not None, "Validation.resolve comes first"
        if is_stream(data):
            batches = stream_validation(task, data, self.engine.eval_batch_size, seed)
            return Evaluation(task, batches, seed=seed), lambda factor: Evaluation(
                task, batches.part(factor * samples, seed), seed=seed
            )
        size = dataset_size(data, "val_dataset")
        return self.engine.evaluation(data), lambda factor: self.engine.evaluation(
            data, validation_subset(size, factor * samples, seed)
        )

    def probe_evaluation(self, factor: int = 1) -> Evaluation:
        """Return the evaluation on ``factor`` times ``Validation.probe_samples`` samples.

        Those of a smaller one are among those of a larger one.
        """
        return self._probe_evaluation(factor)

    def take_snapshot(self, step: int) -> None:
        """Capture the state before applied step ``step``: what probes and stages start from."""
        share_buffers(self.replica.module, self.group)
        self.snapshot.capture(self.replica, step)
        self._kept.forget()

    @property
    def gathers_model(self) -> bool:
        """Whether this worker takes part where the model is copied to rank 0's CPU."""
        return self.group.rank == 0 or self.replica.is_sharded

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
            fault = first_fault(self.engine, step) if self.replica.can_look_back else None
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
        eval_steps: frozenset[int] = frozenset()
        if probe.evals > 0:
            every = validation_interval(probe.evals, probe.steps)
            eval_steps = frozenset(every * number for number in range(1, probe.evals + 1))
        evaluation = self.probe_evaluation(probe.sample_factor)
        run = SegmentRun(
            self.engine,
            self.snapshot,
            probe,
            evaluation,
            eval_steps,
            look_every=self._settings.divergence_check_steps,
            share=self.engine.alone if alone else self.engine.together,
            begun=None if alone else self._begun_of(probe),
            keeper=None if alone else self.keeper,
        )
        diverged = run.to_its_end(progress)
        known = run.known
        in_step = not alone or self.group.size == 1
        if probe.may_go_on and in_step and not diverged:
            self._kept.keep(self.replica, probe, known)
        evals = len(known.evaluations)
        return ProbeDone(
            stage=probe.stage,
            index=probe.index,
            training_losses=known.losses,
            validation_losses=tuple(means["loss"] for _, means in known.evaluations),
            diverged=diverged,
            wall_s=known.wall_s,
            forward_steps=self.engine.forward_steps(evals, evaluation),
            skipped_steps=len(known.skipped),
        )

    def run_apply(self, apply: Apply, progress: Progress) -> ApplyDone:
        """Train with the chosen LR from the snapshot, and evaluate on the whole validation set."""
        every = self._settings.validation.every_steps or apply.steps
        eval_steps = frozenset({*range(every, apply.steps, every), apply.steps})
        begun = self._begun_of(apply)
        if begun is None:
            begun = self._kept.state_for(apply)
            skips = self.replica.task.on_bad_batch == "skip"
            if begun is not None and (skips or min(eval_steps) < len(begun.known.losses)):
                # An evaluation lies within the steps that would be left out, or the losses were
                # looked at after other steps: what a spike is depends on that.
                begun = None
        best = BestWeights(to_beat=self.best.loss)
        if begun is not None:
            best.take(begun.best)
        run = SegmentRun(
            self.engine,
            self.snapshot,
            apply,
            self.evaluation,
            eval_steps,
            look_every=self._settings.divergence_check_steps,
            share=self.engine.together,
            best=best if self._keeps_best else None,
            begun=begun,
            keeper=self.keeper,
        )
        diverged = run.to_its_end(progress)
        known = run.known
        if not diverged:  # one that did is applied again, with another LR
            self.best.take(best)
        return ApplyDone(
            stage=apply.stage,
            attempt=apply.attempt,
            training_losses=known.losses,
            diverged=diverged,
            wall_s=known.wall_s,
            evaluations=tuple(
                (apply.segment.first_step + steps, name, value)
                for steps, means in known.evaluations
                for name, value in means.items()
            ),
            reused_steps=known.reused_steps,
            skipped_steps=len(known.skipped),
            directness=None if self.replica.path is None else self.replica.path.directness(),
        )

    def _begun_of(self, command: Probe | Apply) -> BegunSegment | None:
        """Return what a checkpoint holds of a command; nothing else comes after a restart."""
        begun, self.begun = self.begun, None
        return begun if begun is not None and begun.name == command_name(command) else None
