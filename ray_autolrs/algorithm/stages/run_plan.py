"""What the stage machine is told of a run: everything that its decisions follow from."""

from __future__ import annotations

from dataclasses import dataclass

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.stage_plan import Stage, Stages, next_stage, plan_stages
from ray_autolrs.algorithm.search.strategy import RunFacts, SearchStrategy


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """A run's resolved settings, as far as they decide what is trained with which LR.

    Attributes:
        facts: what the search may know.
        stages: how the run is cut.
        search: how a stage is searched; resolved.
        warmup: what is applied before the first search, if anything is.
        closing_fraction: part of a run without a known end in which the LR falls once the run is
            asked to finish; 0 for none.
        parallel_probes: probes that may run at the same time. A probe's LR depends on the results
            of all probes that were asked at least this many places before it, and on no other, so
            that timing cannot change the schedule. Where a strategy needs more than those, it
            waits for all that run.
    """

    facts: RunFacts
    stages: Stages
    search: SearchStrategy
    warmup: Segment | None = None
    closing_fraction: float = 0.0
    parallel_probes: int = 1

    def stage_after(self, previous: Stage | None) -> Stage | None:
        """Return the stage that follows, or None where the run ends."""
        return next_stage(
            self.stages, self.facts.total_steps, previous, first_step=self.facts.first_step
        )

    def all_stages(self) -> tuple[Stage, ...]:
        """Return every stage of a run whose end is known."""
        assert self.facts.total_steps is not None, self
        return plan_stages(self.stages, self.facts.total_steps, first_step=self.facts.first_step)

    def planned_probe_steps(self) -> int:
        """Return about how many probe steps a run whose end is known takes; 0 if unknown."""
        return self.search.planned_steps(self.facts, self.all_stages())
