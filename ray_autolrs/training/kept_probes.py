"""Probes that are not wasted: a stage may go on from the end of the probe with its LRs."""

from __future__ import annotations

from dataclasses import replace

from ray_autolrs.algorithm.stages.messages import Apply, Probe
from ray_autolrs.training.begun_segment import BegunSegment, KnownSteps, command_name
from ray_autolrs.training.replica import Replica
from ray_autolrs.training.snapshot import Snapshot


class KeptProbes:
    """The ends of the latest probe and of the stage's best: the applied run may go on from one.

    A cache: going on from the end of a probe gives the same bits as taking its steps again.
    """

    def __init__(self) -> None:
        self._latest: BegunSegment | None = None
        self._best: BegunSegment | None = None

    def keep(self, replica: Replica, probe: Probe, known: KnownSteps) -> None:
        """Keep the replica's state as the latest, and what was the latest if it is the best."""
        spare = self._latest
        if self._latest is not None and self._latest.address[2] == probe.best:
            spare, self._best = self._best, self._latest
        end = spare.end if spare is not None else Snapshot()
        end.capture(replica, probe.segment.last_step + 1)
        # What an applied stage tells of them is its own: the probe's evaluations are not.
        first = replace(known, evaluations=(), reused_steps=probe.steps, wall_s=0.0)
        self._latest = BegunSegment(command_name(probe), first, end)

    def forget(self) -> None:
        """Drop both: a new stage begins."""
        self._latest = self._best = None

    def state_for(self, apply: Apply) -> BegunSegment | None:
        """Return the end of the probe that the applied segment begins with, if it was kept."""
        for kept in (self._latest, self._best):
            if kept is not None and kept.address == ("probe", apply.stage, apply.best):
                return kept
        return None
