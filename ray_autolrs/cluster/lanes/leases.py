"""Which lane runs which probe.

A lane is anything that can run a probe from the stage's snapshot: a training worker by itself,
or an actor elsewhere. Lanes pull their probes; one that dies gives its probe back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ray_autolrs.algorithm.stages.messages import Probe

WORKER_LANE = "worker-"
"""Lanes whose name begins so are training workers; they are lost and start together."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing came in time: ask again."""


@dataclass(frozen=True, slots=True)
class Over:
    """No probe is to come: the stage's search has ended, or the run."""


Assignment = Probe | Idle | Over


class Leases:
    """The probes that are being run, by lane."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, int]] = {}

    def take(self, lane: str, outstanding: Iterable[Probe]) -> Probe | None:
        """Give a lane the first probe that no other lane runs, or None.

        A lane runs one probe at a time: what it held before it has told, or lost.
        """
        self._held.pop(lane, None)
        running = set(self._held.values())
        for probe in outstanding:
            if (probe.stage, probe.index) not in running:
                self._held[lane] = (probe.stage, probe.index)
                return probe
        return None

    def give_back(self, lanes: Sequence[str]) -> list[tuple[int, int]]:
        """Free what lanes held; return it as (stage, index)."""
        return [self._held.pop(lane) for lane in lanes if lane in self._held]

    def lanes(self, prefix: str) -> list[str]:
        """Return the lanes that run a probe and whose name begins with ``prefix``."""
        return [lane for lane in self._held if lane.startswith(prefix)]
