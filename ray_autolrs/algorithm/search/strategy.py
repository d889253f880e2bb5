"""How a stage is searched, as one small interface; the stage machine knows no strategy's inside.

A strategy is a frozen value that a user passes as ``AutoLRSConfig(search=...)``. Its methods are
pure functions of its fields, the stage and the observations, so that a run that was interrupted
asks the same probes, and timing cannot change a schedule.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from ray_autolrs.algorithm.forecast.forecaster import Forecast
from ray_autolrs.algorithm.schedules.interpolation import Interpolation
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import Flat, Shape
from ray_autolrs.algorithm.schedules.stage_plan import Stage

Strategy = TypeVar("Strategy", bound="SearchStrategy")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What a strategy may know of the run, every number resolved.

    Attributes:
        total_steps: applied steps; None without a known end.
        lr: the interval to search, or a guess to search around.
        seed: of whatever a strategy draws.
        shape: what every stage's peak LR is multiplied with.
        first_step: applied step that the first stage starts at.
        is_averaged: whether probes and the model are judged at averaged weights.
        interpolation: the average, if it is Schedule-Free's.
    """

    total_steps: int | None
    lr: float | tuple[float, float]
    seed: int = 0
    shape: Shape = field(default=Flat())
    first_step: int = 0
    is_averaged: bool = False
    interpolation: Interpolation | None = None

    @property
    def lr_interval(self) -> tuple[float, float]:
        """The interval, for a strategy that needs one."""
        assert isinstance(self.lr, tuple), "the config refuses a guess for such a strategy"
        return self.lr


@dataclass(frozen=True, slots=True)
class Candidate:
    """A probe of ``peak_lr`` that a strategy asks for.

    Attributes:
        steps: optimizer steps of the probe.
        evals: validation losses taken evenly over the probe, the last at its end; 0 for none.
        shape: factor of each step, addressed by the run's applied steps.
        explanation: numbers that tell a reader of the log why it is asked; they decide nothing.
        sample_factor: validation samples of an evaluation, in those of a usual probe's.
    """

    peak_lr: float
    steps: int
    evals: int
    shape: Shape
    explanation: Mapping[str, float] = field(default_factory=dict, hash=False)
    sample_factor: int = 1

    def segment(self, first_step: int) -> Segment:
        """Return the probe's steps, from applied step ``first_step`` on."""
        return Segment(first_step, first_step + self.steps - 1, self.peak_lr, self.shape)


@dataclass(frozen=True, slots=True)
class ProbeLosses:
    """What a probe that did not diverge has seen.

    Attributes:
        training: loss of each step, before its update.
        validation: the validation losses that were asked for.
    """

    training: tuple[float, ...]
    validation: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """A judged probe.

    Attributes:
        index: number of the probe in its stage.
        peak_lr: the LR that was tried.
        forecast: the loss that it promises; None if it diverged.
        shape: as in its candidate.
        training_losses: loss of each step; none if it diverged.
    """

    index: int
    peak_lr: float
    forecast: Forecast | None
    shape: Shape = field(default=Flat())
    training_losses: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Divergence:
    """An LR that was applied in a stage and diverged.

    Attributes:
        peak_lr: the LR.
        steps: steps that were taken until it was seen.
        probes: probes that the stage had made by then.
        probe: index of the one that had tried this LR; None if there is none.
    """

    peak_lr: float
    steps: int
    probes: int
    probe: int | None = None


@dataclass(frozen=True, slots=True)
class PastStage:
    """A stage that was applied.

    Attributes:
        stage: its place in the run.
        peak_lr: the LR that was applied.
        results: its judged probes, in the order asked; empty if it was not searched.
        training_losses: loss of each step.
        directness: how straight the way of the weights was from the run's start to the stage's
            end (:mod:`ray_autolrs.training.weight_path`); None where it is not known.
        diverged: what was applied before, from the stage's start, and diverged.
    """

    stage: Stage
    peak_lr: float
    results: tuple[Observation, ...]
    training_losses: tuple[float, ...] = ()
    directness: float | None = None
    diverged: tuple[Divergence, ...] = ()


@dataclass(frozen=True, slots=True)
class StageContext:
    """What a strategy may look at, beside the stage's own observations.

    Attributes:
        stage: the stage to search.
        facts: of the run.
        past: the stages before it, in order.
        initial_loss: training loss before the run's first update; NaN while unknown.
        diverged: what was applied in this stage and diverged, in that order. The stage is searched
            again from its start, for an LR below them.
    """

    stage: Stage
    facts: RunFacts
    past: tuple[PastStage, ...] = ()
    initial_loss: float = math.nan
    diverged: tuple[Divergence, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """What a stage applies.

    Attributes:
        peak_lr: the LR.
        probe: index of the probe that tried just this LR; None for an LR between the tried ones.
    """

    peak_lr: float
    probe: int | None = None


class SearchStrategy(ABC):
    """Decides which probes a stage makes, what they promise, and what is applied.

    A subclass is a frozen dataclass, which checks its fields in ``__post_init__``.
    """

    __slots__ = ()

    accepts_guess: ClassVar[bool] = False
    """Whether ``AutoLRSConfig.lr`` may be a guess rather than an interval."""

    def resolve(self: Strategy, facts: RunFacts) -> Strategy:
        """Return the strategy with every field filled in that depends on the run."""
        return self

    def check_stage(self, stage: Stage) -> None:
        """Refuse a stage that cannot be searched; it is asked for the shortest one before a run.

        Raises:
            ValueError: as said.
        """
        return

    @property
    def reads_directness(self) -> bool:
        """Whether it asks for the directness of past stages."""
        return False

    @property
    def most_parallel_probes(self) -> int:
        """How many of a stage's probes can run at the same time; of a resolved strategy."""
        return 1

    def expected_rounds(self, stage: int, lanes: int) -> int:
        """Return how many probes' time the search of a stage is likely to take.

        Lanes are chosen by it, and asked for and given back. Without an answer of a strategy's
        own, a stage has as many probes as can run at the same time.

        Args:
            stage: its number, from 1.
            lanes: how many probes can run at the same time.

        Returns:
            0 where the stage is likely not searched; else one with enough lanes, and never more
            with more lanes.
        """
        return math.ceil(self.most_parallel_probes / max(1, lanes))

    def planned_steps(self, facts: RunFacts, stages: Sequence[Stage]) -> int:
        """Return about how many probe steps a run of these stages takes; of a resolved strategy.

        It is told to the user before a run; 0 tells that it is not known.
        """
        return 0

    @abstractmethod
    def suggest(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        """Return the next probe, or None.

        Args:
            context: the stage.
            told: observations, in the order asked.
            running: peak LRs asked after those, whose results are not to be used yet, also where
                they are known already.

        Returns:
            None where more results are needed first. None while nothing is running ends the
            stage's search.
        """

    def foresee(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Sequence[Candidate]:
        """Return probes that may be suggested once the running ones have ended, likeliest first.

        Idle lanes run them ahead. A search sees such a probe's result only once :meth:`suggest`
        asks for the same probe, so that it decides as if nothing had been foreseen.

        Args:
            context: as in :meth:`suggest`, and so are the others.
            told: observations, in the order asked.
            running: peak LRs asked after those.
        """
        return ()

    def judge(self, context: StageContext, candidate: Candidate, losses: ProbeLosses) -> Forecast:
        """Return what a probe that did not diverge promises: its last loss, if not overridden.

        Args:
            context: the stage; its initial loss is known.
            candidate: what was asked.
            losses: what the probe has seen.

        Raises:
            ValueError: there are too few losses, or one is not finite.
        """
        # One loss says nothing about its own error.
        return Forecast(loss=(losses.validation or losses.training)[-1], std=math.nan)

    @abstractmethod
    def choose(
        self, context: StageContext, told: Sequence[Observation], rejected: Sequence[float]
    ) -> Choice | None:
        """Return what to apply, or None where every LR that could be applied diverged.

        Args:
            context: the stage.
            told: the stage's observations; none where it was not searched.
            rejected: LRs between the tried ones that were applied and diverged, in that order. A
                tried one that diverged when it was applied counts as a probe that diverged.
        """


def validation_interval(evals: int, probe_steps: int) -> int:
    """Return the steps between two validation losses of a probe (published code)."""
    return max(1, probe_steps // evals)
