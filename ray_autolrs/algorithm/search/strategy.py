"""How a stage is searched, as one small interface; the stage machine knows no strategy's inside.

A strategy is made of pure functions of the settings, the stage and the observations, so that a
run that was interrupted asks the same probes, and timing cannot change a schedule.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ray_autolrs.algorithm.forecast.exponential import Forecast
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import Constant, Shape
from ray_autolrs.algorithm.schedules.stage_plan import Stage

MOST_RETREATS = 6
"""How often an LR that diverges after its search is halved before the run is given up. Ours."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A probe that a strategy asks for.

    Attributes:
        lr: the multiplier to try.
        steps: optimizer steps of the probe.
        evals: validation losses taken evenly over the probe, the last at its end; 0 judges by
            the training loss of each step.
        shape: factor of each step, addressed by the run's applied steps.
    """

    lr: float
    steps: int
    evals: int
    shape: Shape

    def segment(self, first_step: int) -> Segment:
        """Return the probe's steps, from applied step ``first_step`` on."""
        return Segment(first_step, first_step + self.steps - 1, self.lr, self.shape)


@dataclass(frozen=True, slots=True)
class Observation:
    """A judged probe.

    Attributes:
        index: number of the probe in its stage.
        lr: the multiplier that it was run with.
        forecast: the loss that it promises at the stage's end; None if it diverged.
        shape: as in its candidate.
        losses: training loss of each step; none if it diverged.
    """

    index: int
    lr: float
    forecast: Forecast | None
    shape: Shape = field(default=Constant())
    losses: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class PastStage:
    """A stage that was applied.

    Attributes:
        stage: its place in the run.
        lr: the multiplier that was applied.
        results: its judged probes, in the order asked; empty if it was not searched.
        losses: training loss of each step.
    """

    stage: Stage
    lr: float
    results: tuple[Observation, ...]
    losses: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class StageContext:
    """What a strategy may look at, beside the stage's own observations.

    Attributes:
        stage: the stage to search.
        past: the stages before it, in order.
        initial_loss: training loss before the run's first update; NaN while unknown.
    """

    stage: Stage
    past: tuple[PastStage, ...] = ()
    initial_loss: float = float("nan")


class SearchStrategy(Protocol):
    """Decides which probes a stage makes, what they promise, and what is applied."""

    @abstractmethod
    def suggest(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        """Return the next probe, or None.

        Args:
            context: the stage.
            told: observations, in the order asked.
            running: multipliers asked after those, whose results are not to be used yet, also
                where they are known already.

        Returns:
            None where more results are needed first. None while nothing is running ends the
            stage's search.
        """

    @abstractmethod
    def judge(
        self, context: StageContext, candidate: Candidate, losses: Sequence[float]
    ) -> Forecast:
        """Return what a probe that did not diverge promises.

        Args:
            context: the stage; its initial loss is known.
            candidate: what was asked.
            losses: the training loss of each step, or ``candidate.evals`` validation losses.

        Raises:
            ValueError: there are too few losses, or one is not finite.
        """

    @abstractmethod
    def choose(self, context: StageContext, told: Sequence[Observation]) -> float | None:
        """Return the multiplier to apply, or None where every one that could be diverged.

        Args:
            context: the stage.
            told: the stage's observations; none where it was not searched. What was applied and
                diverged stands behind them.
        """
