"""Gives probes to lanes: those that a search has asked for, and those that are run ahead of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ray_autolrs.algorithm.stages.foreseen import RunAhead, foreseen
from ray_autolrs.algorithm.stages.machine import outstanding
from ray_autolrs.algorithm.stages.messages import FORESEEN, Probe, ProbeDone
from ray_autolrs.algorithm.stages.phases import Probing, RunState
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.algorithm.stages.run_plan import RunPlan
from ray_autolrs.cluster.lanes.leases import WORKER_LANE, Leases


class ProbeDesk:
    """Which lane runs what, and what was run ahead.

    A stage's probes are given out once a training worker has pulled one: until then the workers
    may still be about to search the stage together.

    Args:
        waiting_s: a lane that has asked in vain within so many seconds waits.
    """

    def __init__(self, waiting_s: float) -> None:
        self._waiting_s = waiting_s
        self._leases = Leases()
        self._ahead = RunAhead()
        self._open_stage = 0
        self._waited = (0, 0)

    @property
    def actors(self) -> int:
        """Lanes besides the workers that have asked for a probe."""
        return self._leases.actors()

    @property
    def busy(self) -> int:
        """Lanes that run a probe."""
        return len(self._leases.lanes(""))

    def read(self, records: Iterable[Record]) -> None:
        """Take up what a run's log says was run ahead."""
        self._ahead = RunAhead(records)

    def lose_workers(self) -> None:
        """Give back what training workers held: they have started again, and decide again."""
        self._leases.give_back(self._leases.lanes(WORKER_LANE))
        self.close()

    def close(self) -> None:
        """Let no lane run probes until a worker pulls one: a stage may be searched once more."""
        self._open_stage, self._waited = 0, (0, 0)

    def open(self, stage: int) -> bool:
        """Let lanes run the stage's probes; return whether they could not before."""
        was_closed = self._open_stage != stage
        self._open_stage = stage
        return was_closed

    def waiting(self, stage: int) -> int:
        """Return how many actors wait; the answer stays the same during a stage's search."""
        if self._waited[0] != stage:
            self._waited = (stage, self._leases.waiting_actors(self._waiting_s))
        return self._waited[1]

    def next_probe(self, lane: str, plan: RunPlan, state: RunState, *, stays: bool) -> Probe | None:
        """Give a lane its next probe, or None; what it held before it has told, or lost."""
        return self._leases.take(lane, self._probes_for(plan, state, stays=stays))

    def give_back(self, lane: str) -> list[tuple[int, int]]:
        """Free what a lane held; return what a search asked for of it, as (stage, index)."""
        return self._leases.give_back([lane])

    def keep_ahead(self, lane: str, told: ProbeDone) -> Record | None:
        """Keep a probe that a lane ran ahead until it is asked for; return its record.

        None where its lease was given back meanwhile: what it was is not known any more.
        """
        probe = self._leases.held(lane)
        return None if probe is None else self._ahead.keep(probe, told, lane)

    def take_ahead(self, state: RunState) -> tuple[ProbeDone, str] | None:
        """Return an outcome that is asked for now and was run ahead, and its lane."""
        return self._ahead.take(outstanding(state))

    def _probes_for(self, plan: RunPlan, state: RunState, *, stays: bool) -> Iterator[Probe]:
        phase = state.phase
        if not isinstance(phase, Probing) or self._open_stage != phase.stage.number:
            return
        yield from (command for command in outstanding(state) if isinstance(command, Probe))
        # Workers apply what is chosen: they start nothing that may be running by then.
        if stays or not phase.results:
            yield from self._ahead.without(foreseen(plan, state))


def is_ahead(told: ProbeDone) -> bool:
    """Return whether a probe was run before a search asked for it."""
    return told.index == FORESEEN
