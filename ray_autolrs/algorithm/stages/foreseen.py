"""Probes that idle lanes run ahead: asked for by no search yet, and kept until one does.

A result that was run ahead is told to the stage machine only once the machine has given the very
command, so that what a search sees, and what it decides, is the same with lanes and without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import FORESEEN, Command, Probe, ProbeDone
from ray_autolrs.algorithm.stages.phases import Probing, RunState
from ray_autolrs.algorithm.stages.records import Record, foreseen_record, record_foreseen
from ray_autolrs.algorithm.stages.run_plan import RunPlan
from ray_autolrs.algorithm.stages.stage_search import stage_context

_Place = tuple[int, Segment, int, int]


def foreseen(plan: RunPlan, state: RunState) -> tuple[Probe, ...]:
    """Return the probes that a stage's search may ask for once the running ones have ended."""
    phase = state.phase
    if not isinstance(phase, Probing):
        return ()
    told = phase.in_order
    running = [candidate.peak_lr for candidate in phase.asked[len(told) :]]
    candidates = plan.search.foresee(stage_context(plan, state, phase), told, running)
    return tuple(
        Probe(
            phase.stage.number,
            FORESEEN,
            each.segment(phase.stage.first_step),
            each.evals,
            sample_factor=each.sample_factor,
        )
        for each in candidates
    )


class RunAhead:
    """The results of foreseen probes; those of earlier stages are dropped.

    Args:
        records: a run's log, whose results are taken up again.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._kept: dict[_Place, tuple[ProbeDone, str]] = {}
        for record in records:
            if record["kind"] == "foreseen":
                self._keep(*record_foreseen(record), record["lane"])

    def keep(self, probe: Probe, done: ProbeDone, lane: str) -> Record:
        """Keep what a lane has run ahead, and return its record."""
        self._keep(probe, done, lane)
        return foreseen_record(probe, done) | {"lane": lane}

    def without(self, probes: Iterable[Probe]) -> Iterator[Probe]:
        """Return the probes that have no result yet."""
        return (probe for probe in probes if _place(probe) not in self._kept)

    def take(self, commands: Iterable[Command]) -> tuple[ProbeDone, str] | None:
        """Return the outcome, and the lane, of the first command that was run ahead."""
        for command in commands:
            if isinstance(command, Probe) and _place(command) in self._kept:
                done, lane = self._kept.pop(_place(command))
                return replace(done, index=command.index), lane
        return None

    def _keep(self, probe: Probe, done: ProbeDone, lane: str) -> None:
        self._kept = {place: kept for place, kept in self._kept.items() if place[0] >= probe.stage}
        self._kept[_place(probe)] = done, lane


def _place(probe: Probe) -> _Place:
    """Return what two commands for the same probe have in common."""
    return probe.stage, probe.segment, probe.evals, probe.sample_factor
