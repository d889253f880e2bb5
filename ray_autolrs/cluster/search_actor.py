"""The search actor: holds the stage machine and the log, and answers the workers.

It never trains. Each event is in the log before it is answered, so an actor that dies comes
back with nothing lost: a new one replays the log.

Its methods may be called at the same time from several threads: a lane that asks for a probe
waits in :meth:`SearchActor.pull` until there is one.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from ray_autolrs.algorithm.schedules.found_with import FoundWith
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import (
    Command,
    Event,
    FinishRequested,
    Probe,
    ProbeDone,
    Ready,
)
from ray_autolrs.algorithm.stages.phases import Applying, Finished, Probing, RunState
from ray_autolrs.algorithm.stages.records import Record, choice_record, event_record, replay
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from ray_autolrs.cluster.lanes.leases import WORKER_LANE, Assignment, Idle, Leases, Over
from ray_autolrs.cluster.run_folder import EVENTS_FILE, SCHEDULE_FILE, EventLog, RunFolder
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.schedule import LRSchedule
from ray_autolrs.sinks.sink import Measurement, Status

logger = logging.getLogger(__name__)

MOST_MEASURED = 100_000
"""Measurements that wait for a poll. Ours: more are made in half a second by no one."""

PULL_TIMEOUT_S = 2.0
"""Longest wait for a probe before a lane is told to ask again."""


class SearchLine(Protocol):
    """What the training workers call of a search actor, which may be in another process."""

    def exchange(self, event: Event | None) -> Command:
        """Tell an event, or nothing, and return the next command. Rank 0 calls it."""

    def pull(self, lane: str, told: ProbeDone | None, *, stays: bool) -> Assignment:
        """Tell what a lane has run, and return what it is to run next."""

    def heartbeat(self, steps_done: int, loss: float) -> None:
        """Tell the progress of the current command; does not wait. Rank 0 calls it."""

    def measured(self, measurements: tuple[Measurement, ...]) -> None:
        """Tell what was measured of the applied model; does not wait. Rank 0 calls it."""


class SearchActor:
    """Answers events with commands. It is a plain object; the driver makes it a Ray actor.

    Args:
        config: the run's settings, resolved.
        folder: where the log and the schedule are kept; what it holds already is continued.
        parallel_probes: probes that may run at the same time. A run that is continued keeps the
            number that it was started with, because the schedule depends on it.
        owner: holder of the run's lease; None asks for no lease.

    Raises:
        ValueError: the folder's log is not a run's.
    """

    def __init__(
        self,
        config: AutoLRSConfig,
        folder: RunFolder,
        parallel_probes: int = 1,
        owner: str | None = None,
    ) -> None:
        self._config = config
        self._folder = folder
        self._changed = threading.Condition()
        self._leases = Leases()
        self._status = Status()
        self._measured: deque[Measurement] = deque(maxlen=MOST_MEASURED)
        self._state = RunState()
        self._owner = owner
        self._log = EventLog(folder, owner)
        if not any(record["kind"] == "lanes" for record in self._log.records):
            record = {"kind": "lanes", "parallel_probes": parallel_probes, "time": time.time()}
            self._log.append([record])
        self._load()

    def exchange(self, event: Event | None) -> Command:
        """Take in what the workers did together, and return what they are to do next.

        An event may be told again after a failure; the answer is the same. None tells nothing:
        it asks what is to be done once the lanes have ended a search.

        Raises:
            SearchFailedError: no LR of a stage can be applied.
        """
        with self._changed:
            if isinstance(event, Ready):
                # The last workers of a driver that was killed may have gone on for a moment
                # after this actor was started.
                self._load()
                self._leases.give_back(self._leases.lanes(WORKER_LANE))
            if event is not None:
                self._take_in(event, lane="all workers")
            command = outstanding(self._state)[0]
            self._status = Status(command=command)
            return command

    def pull(self, lane: str, told: ProbeDone | None, *, stays: bool) -> Assignment:
        """Take in the probe that a lane has run, and return the next one for it.

        Args:
            lane: the lane's name.
            told: what it ran, or None.
            stays: whether it waits for the next stage's probes too; if not, it is told that the
                search is over.

        Raises:
            SearchFailedError: no LR of a stage can be applied.
        """
        deadline_s = time.monotonic() + PULL_TIMEOUT_S
        with self._changed:
            if told is not None:
                self._take_in(told, lane)
            while True:
                phase = self._state.phase
                if isinstance(phase, Finished) or not (stays or isinstance(phase, Probing)):
                    self._leases.give_back([lane])
                    return Over()
                waiting = outstanding(self._state) if isinstance(phase, Probing) else ()
                probe = self._leases.take(lane, (p for p in waiting if isinstance(p, Probe)))
                if probe is not None:
                    return probe
                if not self._changed.wait(deadline_s - time.monotonic()):
                    return Idle()

    def give_back(self, lane: str) -> list[tuple[int, int]]:
        """Give a lost lane's probe to the others; return it as [(stage, index)], or []."""
        with self._changed:
            lost = self._leases.give_back([lane])
            self._changed.notify_all()
            return lost

    def finish(self) -> None:
        """Take note that a run without a known end is to end after the current stage."""
        with self._changed:
            self._take_in(FinishRequested(), lane="user")

    def heartbeat(self, steps_done: int, loss: float) -> None:
        """Take note of the progress of the current command."""
        with self._changed:
            self._status = Status(self._status.command, steps_done, loss)

    def measured(self, measurements: tuple[Measurement, ...]) -> None:
        """Take note of what was measured, for the next poll; the log does not hold it."""
        with self._changed:
            self._measured += measurements

    def poll(self, first_record: int) -> tuple[list[Record], Status]:
        """Return the log's records from number ``first_record`` on, and the status.

        What was measured is told once.
        """
        with self._changed:
            status = dataclasses.replace(self._status, measured=tuple(self._measured))
            self._measured.clear()
            return self._log.records[first_record:], status

    def _load(self) -> None:
        self._log = EventLog(self._folder, self._owner)
        try:
            lanes = next(record for record in self._log.records if record["kind"] == "lanes")
            self._plan = self._config.plan(lanes["parallel_probes"])
            self._state = replay(self._plan, self._log.records)
        except SearchFailedError:
            raise
        except Exception as error:  # A log of another version, or of nobody, may fail in any way.
            raise ValueError(
                f"{self._folder.path}/{EVENTS_FILE} is not a log that this version of ray_autolrs "
                f"wrote ({type(error).__name__}: {error}); use another name for a new run"
            ) from error

    def _take_in(self, event: Event, lane: str) -> None:
        """Advance the machine, and write the log before anyone is answered."""
        before = self._state
        after, _ = advance(self._plan, before, event)
        if after is not before:
            self._write(before, event, after, lane)
            self._state = after
            self._changed.notify_all()

    def _write(self, before: RunState, event: Event, after: RunState, lane: str) -> None:
        now = time.time()
        records: list[Record] = [event_record(before, event, after) | {"lane": lane, "time": now}]
        if isinstance(after.phase, Applying) and after.phase is not before.phase:
            records.append(choice_record(after.phase) | {"time": now})
        if after.segments and after.segments != before.segments:
            average = found_with(self._config, [*self._log.records, *records])
            schedule = LRSchedule(after.segments, average)
            self._folder.write_json(SCHEDULE_FILE, schedule.to_dict())
        self._log.append(records)


def found_with(config: AutoLRSConfig, records: Iterable[Record]) -> FoundWith | None:
    """Return the average that a run's LRs are for; its workers told the optimizer's momentum."""
    if config.averaging is None:
        return None
    told = (record["base_momentum"] for record in records if "base_momentum" in record)
    return config.averaging.found_with(next(told, None))
