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

from ray_autolrs.algorithm.schedules.found_with import FoundWith
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import (
    Apply,
    ApplyDone,
    Command,
    Event,
    Finish,
    FinishRequested,
    Probe,
    ProbeDone,
    Ready,
    address_of,
)
from ray_autolrs.algorithm.stages.phases import Applying, Finished, Probing, RunState
from ray_autolrs.algorithm.stages.records import Record, choice_record, event_record, replay
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from ray_autolrs.cluster.event_log import LOG_FORMAT, EventLog
from ray_autolrs.cluster.lanes.leases import GROUP_LANE, Assignment, Idle, Over
from ray_autolrs.cluster.lanes.probe_desk import ProbeDesk, is_ahead
from ray_autolrs.cluster.progress_file import ProgressFile
from ray_autolrs.cluster.run_folder import EVENTS_FILE, SCHEDULE_FILE, RunFolder
from ray_autolrs.cluster.search_clock import Outlook, next_search_s, search_times
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.schedule import LRSchedule
from ray_autolrs.sinks.sink import Measurement, Status

logger = logging.getLogger(__name__)

MOST_MEASURED = 100_000
"""Measurements that wait for a poll. Ours: more are made in half a second by no one."""

PULL_TIMEOUT_S = 2.0
"""Longest wait for a probe before a lane is told to ask again."""


class SearchActor:
    """Answers events with commands. It is a plain object; the driver makes it a Ray actor.

    Args:
        config: the run's settings, resolved.
        folder: where the log and the schedule are kept; what it holds already is continued.
        parallel_probes: probes that may run at the same time. A run that is continued keeps the
            number that it was started with, because the schedule depends on it.
        owner: holder of the run's lease; None asks for no lease.
        num_workers: training workers, for what a search was expected to take.

    Raises:
        ValueError: the folder's log is not a run's.
    """

    def __init__(
        self,
        config: AutoLRSConfig,
        folder: RunFolder,
        parallel_probes: int = 1,
        owner: str | None = None,
        num_workers: int = 1,
    ) -> None:
        self._config = config
        self._num_workers = num_workers
        self._folder = folder
        self._changed = threading.Condition()
        self._desk = ProbeDesk(PULL_TIMEOUT_S + 1.0)
        self._given_s = time.monotonic()
        self._status = Status()
        self._measured: deque[Measurement] = deque(maxlen=MOST_MEASURED)
        self._state = RunState()
        self._owner = owner
        self._is_urgent = False
        self._progress = ProgressFile(folder)
        self._log = EventLog(folder, owner)
        if not any(record["kind"] == "lanes" for record in self._log.records):
            record = {"kind": "lanes", "format": LOG_FORMAT, "parallel_probes": parallel_probes}
            self._log.append([record | {"time": time.time()}])
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
                self._desk.lose_workers()
                self._is_urgent = False
            if isinstance(event, ApplyDone):
                self._desk.close()
            if event is not None:
                self._take_in(event, GROUP_LANE)
            command = outstanding(self._state)[0]
            self._status, self._given_s = Status(command=command), time.monotonic()
            if isinstance(command, Finish):
                self._progress.delete()
            return command

    def waiting_lanes(self, stage: int) -> int:
        """Return how many lanes wait for a probe; the answer stays the same during a search."""
        with self._changed:
            return self._desk.waiting(stage)

    def pull(self, lane: str, told: ProbeDone | None, *, stays: bool) -> Assignment:
        """Take in the probe that a lane has run, and return the next one for it.

        A lane that stays is given a stage's probes once a training worker has pulled one: until
        then the workers may still be about to search the stage together.

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
                self._take_in_probe(told, lane)
            while True:
                phase = self._state.phase
                if isinstance(phase, Finished) or not (stays or isinstance(phase, Probing)):
                    self._desk.give_back(lane)
                    return Over()
                if isinstance(phase, Probing) and not stays and self._desk.open(phase.stage.number):
                    self._changed.notify_all()
                probe = self._desk.next_probe(lane, self._plan, self._state, stays=stays)
                if probe is not None:
                    return probe
                if not self._changed.wait(deadline_s - time.monotonic()):
                    return Idle()

    def give_back(self, lane: str) -> list[tuple[int, int]]:
        """Give a lost lane's probe to the others; return it as [(stage, index)], or []."""
        with self._changed:
            lost = self._desk.give_back(lane)
            self._changed.notify_all()
            return lost

    def outlook(self) -> Outlook:
        """Return what there is to know for whoever holds actors for this run."""
        with self._changed:
            elapsed_s = time.monotonic() - self._given_s
            next_s = next_search_s(self._plan, self._state, self._status, elapsed_s)
            return Outlook(next_s, self._desk.actors)

    def finish(self) -> None:
        """Take note that a run without a known end is to end after the current stage."""
        with self._changed:
            self._take_in(FinishRequested(), lane="user")

    def store_soon(self) -> None:
        """Have the training workers store their state until others take their place."""
        self._is_urgent = True

    def heartbeat(self, steps_done: int, loss: float) -> bool:
        """Take note of the progress; tell whether the state is to be stored soon."""
        with self._changed:
            command = self._status.command
            self._status = Status(command, steps_done, loss)
            if isinstance(command, (Probe, Apply)):
                self._progress.note(address_of(command), steps_done)
            return self._is_urgent

    def measured(self, measurements: tuple[Measurement, ...]) -> None:
        """Take note of what was measured, for the next poll; the log does not hold it."""
        with self._changed:
            self._measured += measurements

    def poll(self, first_record: int) -> tuple[list[Record], Status]:
        """Return the log's records from number ``first_record`` on, and the status.

        What was measured is told once.
        """
        with self._changed:
            status = dataclasses.replace(
                self._status, lanes_busy=self._desk.busy, measured=tuple(self._measured)
            )
            self._measured.clear()
            return self._log.records[first_record:], status

    def _load(self) -> None:
        self._log = EventLog(self._folder, self._owner)
        try:
            lanes = next(record for record in self._log.records if record["kind"] == "lanes")
            if lanes.get("format", LOG_FORMAT) != LOG_FORMAT:
                raise ValueError(f"its format is {lanes['format']!r}, not {LOG_FORMAT!r}")
            self._plan = self._config.plan(lanes["parallel_probes"])
            self._state = replay(self._plan, self._log.records)
            self._desk.read(self._log.records)
        except SearchFailedError:
            raise
        except Exception as error:  # A log of another version, or of nobody, may fail in any way.
            raise ValueError(
                f"{self._folder.path}/{EVENTS_FILE} is not a log that this version of ray_autolrs "
                f"wrote ({type(error).__name__}: {error}); use another name for a new run"
            ) from error

    def _take_in_probe(self, told: ProbeDone, lane: str) -> None:
        if not is_ahead(told):
            self._take_in(told, lane)
            return
        record = self._desk.keep_ahead(lane, told)
        if record is not None:
            self._log.append([record | {"time": time.time()}])
            self._tell_ahead()

    def _take_in(self, event: Event, lane: str) -> None:
        """Advance the machine, and write the log before anyone is answered."""
        self._advance(event, lane)
        self._tell_ahead()

    def _tell_ahead(self) -> None:
        """Tell the machine what it has asked for and was run ahead, as long as there is some."""
        while (kept := self._desk.take_ahead(self._state)) is not None:
            done, lane = kept
            self._advance(done, lane, foreseen=True)

    def _advance(self, event: Event, lane: str, **marks: bool) -> None:
        before = self._state
        after, _ = advance(self._plan, before, event)
        if after is before:
            return
        self._write(before, event, after, {"lane": lane, **marks})
        self._state = after
        if _has_more_to_run(before, after):  # Else all lanes would wake up for each result.
            self._changed.notify_all()

    def _write(self, before: RunState, event: Event, after: RunState, marks: Record) -> None:
        now = time.time()
        if isinstance(event, Ready):
            redone = self._progress.redone_steps(event, outstanding(after), self._log.records)
            marks = marks | {"redone_steps": redone}
        records: list[Record] = [event_record(before, event, after) | marks | {"time": now}]
        if isinstance(after.phase, Applying) and after.phase is not before.phase:
            known = [*self._log.records, *records]
            times = search_times(self._plan, known, self._num_workers, now)
            records.append(choice_record(after.phase) | times | {"time": now})
        if after.segments and after.segments != before.segments:
            average = found_with(self._config, [*self._log.records, *records])
            schedule = LRSchedule(after.segments, average)
            self._folder.write_json(SCHEDULE_FILE, schedule.to_dict())
        self._log.append(records)


def _has_more_to_run(before: RunState, after: RunState) -> bool:
    """Return whether a lane that waits may find something that was not there before."""
    old, new = before.phase, after.phase
    if isinstance(old, Probing) and isinstance(new, Probing) and old.stage == new.stage:
        return len(old.asked) != len(new.asked)
    return True


def found_with(config: AutoLRSConfig, records: Iterable[Record]) -> FoundWith | None:
    """Return the average that a run's LRs are for; its workers told the optimizer's momentum."""
    if config.averaging is None:
        return None
    told = (record["base_momentum"] for record in records if "base_momentum" in record)
    return config.averaging.found_with(next(told, None))
