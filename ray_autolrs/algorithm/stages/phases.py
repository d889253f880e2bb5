"""What the stage machine knows: the phases of a run, each a frozen value with its own data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import Flat, Shape
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search.strategy import Candidate, Observation


@dataclass(frozen=True, slots=True)
class Starting:
    """Nothing has happened yet."""


@dataclass(frozen=True, slots=True)
class WarmingUp:
    """The warm-up is being applied."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class Probing:
    """LRs are being tried.

    Attributes:
        stage: the stage that they are for.
        asked: the probes asked so far, in order.
        results: the judged probes by index; those of ``asked`` that are missing still run.
        informed_by: for each of those asked, how many of the first results it was suggested from.
        run_shape: what a stage's peak LR is multiplied with.
    """

    stage: Stage
    asked: tuple[Candidate, ...] = ()
    results: tuple[Observation, ...] = ()
    informed_by: tuple[int, ...] = ()
    run_shape: Shape = field(default=Flat())

    @property
    def best(self) -> int | None:
        """Index of the probe that promises most so far."""
        judged = [(r.forecast.loss, r.index) for r in self.results if r.forecast is not None]
        return min(judged)[1] if judged else None

    @property
    def in_order(self) -> tuple[Observation, ...]:
        """The results up to the first probe that still runs: what a search may be told."""
        ordered = sorted(self.results, key=lambda result: result.index)
        return tuple(result for place, result in enumerate(ordered) if result.index == place)


@dataclass(frozen=True, slots=True)
class Applying:
    """The chosen LR is being applied.

    Attributes:
        stage: the stage that it is applied for.
        segment: its LR.
        results: the stage's judged probes, in the order asked.
        probe: index of the probe that tried its peak LR; None if there is none.
        may_go_on: whether that probe's end may be gone on from: its shape was the run's.
        rejected: LRs that no probe tried, that were applied before and diverged.
        attempt: how often the stage was applied before, with LRs that diverged.
        is_closing: whether it is the one in which a run without a known end falls.
        training_losses: loss of each step, once it has been applied.
    """

    stage: Stage
    segment: Segment
    results: tuple[Observation, ...] = ()
    probe: int | None = None
    may_go_on: bool = False
    rejected: tuple[float, ...] = ()
    attempt: int = 0
    is_closing: bool = False
    training_losses: tuple[float, ...] = ()

    @property
    def best(self) -> int | None:
        """Index of the probe whose LRs the segment begins with; None if there is none."""
        return self.probe if self.may_go_on else None


@dataclass(frozen=True, slots=True)
class Finished:
    """Every stage is applied."""


Phase = Starting | WarmingUp | Probing | Applying | Finished


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything that the machine knows.

    Attributes:
        phase: what is going on.
        past: the warm-up and the stages that were applied, in order.
        initial_loss: training loss before the first update; NaN until it is known.
        ahead: phases that were reached before the run was set back to an earlier checkpoint, the
            next one first: what their probes have told need not be told again.
        ending: number of the stage after which a run without an end finishes, because the user
            asked for it during that stage; None if nobody has.
    """

    phase: Phase = Starting()
    past: tuple[WarmingUp | Applying, ...] = ()
    ahead: tuple[Phase, ...] = ()
    initial_loss: float = math.nan
    ending: int | None = None

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The schedule found so far, the segment being applied included."""
        applied = tuple(phase.segment for phase in self.past)
        current = self.phase
        return (
            (*applied, current.segment) if isinstance(current, (WarmingUp, Applying)) else applied
        )
