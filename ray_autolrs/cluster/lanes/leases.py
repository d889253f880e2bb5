"""Which lane runs which probe, and which lanes wait for one.

A lane is anything that can run a probe from the stage's snapshot: a training worker by itself,
or an actor elsewhere. Lanes pull their probes; one that dies gives its probe back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import FORESEEN, Probe

WORKER_LANE = "worker-"
"""Lanes whose name begins so are training workers; they are lost and start together."""

GROUP_LANE = "all workers"
"""The lane that all training workers are together."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing came in time: ask again."""


@dataclass(frozen=True, slots=True)
class Over:
    """No probe is to come: the stage's search has ended, or the run."""


Assignment = Probe | Idle | Over


class Leases:
    """The probes that are being run, by lane, and when each lane last asked for one."""

    def __init__(self) -> None:
        self._held: dict[str, Probe] = {}
        self._asked_s: dict[str, float] = {}

    def take(self, lane: str, waiting: Iterable[Probe]) -> Probe | None:
        """Give a lane the first probe that no other lane runs, or None.

        A lane runs one probe at a time: what it held before it has told, or lost. A probe that
        another lane runs ahead is not given again.
        """
        self._held.pop(lane, None)
        self._asked_s[lane] = time.monotonic()
        running = set(map(_place, self._held.values()))
        for probe in waiting:
            ahead = (probe.stage, FORESEEN, probe.segment)
            if not {_place(probe), ahead} & running:
                self._held[lane] = probe
                return probe
        return None

    def held(self, lane: str) -> Probe | None:
        """Return the probe that a lane runs."""
        return self._held.get(lane)

    def give_back(self, lanes: Sequence[str]) -> list[tuple[int, int]]:
        """Free what lanes held; return what a search asked for of it, as (stage, index)."""
        for lane in lanes:
            self._asked_s.pop(lane, None)
        lost = [self._held.pop(lane) for lane in lanes if lane in self._held]
        return [(probe.stage, probe.index) for probe in lost if probe.index != FORESEEN]

    def lanes(self, prefix: str) -> list[str]:
        """Return the lanes that run a probe and whose name begins with ``prefix``."""
        return [lane for lane in self._held if lane.startswith(prefix)]

    def actors(self) -> int:
        """Return how many lanes other than workers have asked since they were last given back."""
        return sum(not lane.startswith(WORKER_LANE) for lane in self._asked_s)

    def waiting_actors(self, within_s: float) -> int:
        """Return how many of them run nothing and have asked within the last seconds."""
        since_s = time.monotonic() - within_s
        return sum(
            asked_s >= since_s and lane not in self._held and not lane.startswith(WORKER_LANE)
            for lane, asked_s in self._asked_s.items()
        )


def _place(probe: Probe) -> tuple[int, int, Segment | None]:
    return probe.stage, probe.index, probe.segment if probe.index == FORESEEN else None
