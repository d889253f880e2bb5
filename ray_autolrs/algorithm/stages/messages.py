"""What the stage machine tells the training loop, and what it is told back.

Commands and events are small frozen values. They cross process borders, so they hold plain
numbers only.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray_autolrs.algorithm.schedules.segments import Segment

FORESEEN = -1
"""Index of a probe that no search has asked for, which an idle lane runs ahead."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Restore the stage's snapshot, train with ``segment``'s LR, and tell the losses.

    Attributes:
        stage: number of the stage, from 1.
        index: number of the probe in its stage, from 0, in the order asked; or FORESEEN.
        segment: LR of each step of the probe; its first step is the snapshot's step.
        evals: validation losses to take evenly over the probe, and to tell.
        best: index of the probe that promises most so far, whose state at its end may be kept;
            None if there is none.
        may_go_on: whether its shape is the run's, so that a stage with its LR may go on from its
            end.
        sample_factor: validation samples of each evaluation, as a multiple of those that probes
            are usually judged on.
    """

    stage: int
    index: int
    segment: Segment
    evals: int = 0
    best: int | None = None
    may_go_on: bool = False
    sample_factor: int = 1

    @property
    def steps(self) -> int:
        """Optimizer steps of the probe."""
        return self.segment.steps


@dataclass(frozen=True, slots=True)
class Apply:
    """Restore the stage's snapshot and train with ``segment``'s LR, for good.

    Attributes:
        stage: number of the stage, from 1; 0 is the warm-up.
        segment: LR of each step of the stage.
        attempt: how often the stage was applied before, with LRs that diverged.
        best: index of the stage's probe whose LRs the segment begins with, so that a kept state
            of its end may be gone on from; None if there is none.
    """

    stage: int
    segment: Segment
    attempt: int = 0
    best: int | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        return self.segment.steps


@dataclass(frozen=True, slots=True)
class Finish:
    """The last stage is applied: save the model and end."""


Command = Probe | Apply | Finish

Address = tuple[str, int, int]
"""A command's kind, stage and number: the index of a probe, the attempt of an applied stage."""


def address_of(command: Probe | Apply) -> Address:
    """Return what tells a command from the others of its run."""
    if isinstance(command, Probe):
        return "probe", command.stage, command.index
    return "apply", command.stage, command.attempt


@dataclass(frozen=True, slots=True)
class Ready:
    """The workers hold a snapshot taken before applied step ``step``: a start or a restart.

    Attributes:
        step: the step.
        base_momentum: that of the task's optimizer, which an average may have turned off; None
            where nobody asks.
        begun: address of the command that they hold the first steps of, from a checkpoint within
            its stage; None without one.
        done_steps: how many these are.
    """

    step: int
    base_momentum: float | None = None
    begun: Address | None = None
    done_steps: int = 0


@dataclass(frozen=True, slots=True)
class ProbeDone:
    """A probe ended.

    Attributes:
        stage: as in the command.
        index: as in the command.
        training_losses: one for each step taken, before its update; those of a diverged probe may
            hold values that are not finite.
        validation_losses: those that were asked for, or of a diverged probe the first of them.
        diverged: a loss was not finite, and the probe ended early.
        wall_s: seconds from restore to the last loss.
        forward_steps: forward passes without a gradient, as a number of steps: those over
            validation samples and for BatchNorm's statistics, each a third of a training pass.
        skipped_steps: steps among those of ``training_losses`` that were left out, because their
            batches were bad; each has the loss of the step before.
    """

    stage: int
    index: int
    training_losses: tuple[float, ...]
    validation_losses: tuple[float, ...]
    diverged: bool
    wall_s: float
    forward_steps: float = 0.0
    skipped_steps: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return len(self.training_losses)

    @property
    def first_loss(self) -> float:
        """Training loss before any update."""
        return self.training_losses[0]


@dataclass(frozen=True, slots=True)
class ApplyDone:
    """A stage was applied.

    Attributes:
        stage: as in the command.
        attempt: as in the command.
        training_losses: one for each step taken.
        diverged: a loss was not finite, and the stage ended early.
        wall_s: seconds from restore to the last step, evaluations included.
        evaluations: validation means as (applied steps done, name of the value, value).
        reused_steps: the first of its steps, which were not taken again, because the probe with
            the same LRs had taken them.
        skipped_steps: as for a probe.
        directness: how straight the way of the weights was from the run's first step on
            (:mod:`ray_autolrs.training.weight_path`); None where nobody follows it.
    """

    stage: int
    attempt: int
    training_losses: tuple[float, ...]
    diverged: bool
    wall_s: float
    evaluations: tuple[tuple[int, str, float], ...] = ()
    reused_steps: int = 0
    skipped_steps: int = 0
    directness: float | None = None


@dataclass(frozen=True, slots=True)
class FinishRequested:
    """The user wants a run without a known end to end after the stage that is being trained."""


Event = Ready | ProbeDone | ApplyDone | FinishRequested
