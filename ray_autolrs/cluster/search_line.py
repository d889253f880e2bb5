"""What the training workers call of a search actor, in the same process or in another one."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol, cast

import ray
from ray.actor import ActorHandle

from ray_autolrs.algorithm.stages.messages import Command, Event, ProbeDone
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.cluster.lanes.leases import Assignment
from ray_autolrs.sinks.sink import Measurement, Status

ANSWER_TIMEOUT_S = 600.0
"""Longest wait for the search actor's answer. It needs under a second; a restart, some more."""


def answer(
    reference: ray.ObjectRef[Any],
    who: str = "the search actor",
    timeout_s: float = ANSWER_TIMEOUT_S,
) -> Any:
    """Wait for an answer.

    Args:
        reference: to it.
        who: is to answer, for the error.
        timeout_s: longest wait.

    Raises:
        TimeoutError: there was none.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError as error:
        raise TimeoutError(
            f"{who} did not answer in {timeout_s:g} s; see its log in Ray's dashboard and the "
            "state of its node"
        ) from error


class SearchLine(Protocol):
    """What the training workers call of a search actor, which may be in another process."""

    def exchange(self, event: Event | None) -> Command:
        """Tell an event, or nothing, and return the next command. Rank 0 calls it."""

    def pull(self, lane: str, told: ProbeDone | None, *, stays: bool) -> Assignment:
        """Tell what a lane has run, and return what it is to run next."""

    def waiting_lanes(self, stage: int) -> int:
        """Return how many lanes waited for a probe when the stage's search began."""

    def heartbeat(self, steps_done: int, loss: float) -> bool:
        """Tell the progress of the current command; does not wait. Rank 0 calls it.

        Returns:
            Whether the state is to be stored soon, as far as is known.
        """

    def store_soon(self) -> None:
        """Have the state stored; any worker calls it."""

    def measured(self, measurements: tuple[Measurement, ...]) -> None:
        """Tell what was measured of the applied model; does not wait. Rank 0 calls it."""


class RemoteSearch:
    """The line to a search actor in another process.

    Each call that waits raises ``TimeoutError`` after ``ANSWER_TIMEOUT_S``.
    """

    def __init__(self, actor: ActorHandle[Any]) -> None:
        self._actor = actor
        self._beat: ray.ObjectRef[Any] | None = None
        self._is_urgent = False

    def exchange(self, event: Event | None) -> Command:
        """Tell an event, and wait for the next command."""
        return cast("Command", answer(self._actor.exchange.remote(event)))

    def pull(self, lane: str, told: ProbeDone | None, *, stays: bool) -> Assignment:
        """Tell what a lane has run, and wait for its next probe."""
        return cast("Assignment", answer(self._actor.pull.remote(lane, told, stays=stays)))

    def waiting_lanes(self, stage: int) -> int:
        """Ask how many lanes waited for a probe when the stage's search began."""
        return cast("int", answer(self._actor.waiting_lanes.remote(stage)))

    def heartbeat(self, steps_done: int, loss: float) -> bool:
        """Tell the progress, and return an earlier one's answer: this one's is not waited for."""
        beat: ray.ObjectRef[Any] = self._actor.heartbeat.remote(steps_done, loss)
        if self._beat is None:
            self._beat = beat
        elif ray.wait([self._beat], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):
                self._is_urgent = bool(ray.get(self._beat, timeout=ANSWER_TIMEOUT_S))
            self._beat = beat
        return self._is_urgent

    def store_soon(self) -> None:
        """Have the state stored, without waiting for it."""
        self._actor.store_soon.remote()

    def measured(self, measurements: tuple[Measurement, ...]) -> None:
        """Tell what was measured of the applied model, without waiting for the answer."""
        self._actor.measured.remote(measurements)

    def finish(self) -> None:
        """Tell that a run without a known end is to end."""
        answer(self._actor.finish.remote())

    def poll(self, first_record: int) -> tuple[list[Record], Status]:
        """Ask for what is new in the log, and what is going on."""
        return cast("tuple[list[Record], Status]", answer(self._actor.poll.remote(first_record)))
