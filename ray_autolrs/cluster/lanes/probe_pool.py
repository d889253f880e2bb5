"""The pool of probe actors: starts them before a search, keeps them alive, and gives them back."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from types import TracebackType
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    RayActorError,
    RayError,
)
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.cluster.background import Background
from ray_autolrs.cluster.lanes.expected_time import FIRST_START_S, wants_actors
from ray_autolrs.cluster.lanes.lane import LaneRun
from ray_autolrs.cluster.lanes.probe_actor import ProbeActor
from ray_autolrs.cluster.search_clock import Outlook
from ray_autolrs.cluster.search_line import answer
from ray_autolrs.sinks.sink import Status

logger = logging.getLogger(__name__)

MOST_FAILURES = 3
"""Failures of one actor's own code after which it is given up; a lost process is no failure."""

RELEASE_TIMEOUT_S = 30.0
"""Longest wait at a run's end for what the actors held. Two idle cores need 0.05 to 0.15 s."""


class ProbePool(Background):
    """Starts probe actors and watches over them, from a thread of its own.

    Each actor has a placement group of its own, so that the first can begin before there is
    room for the last. An actor whose process or node is lost gives its probe back and is started
    again by Ray where there is room. While no search is in sight, nothing is held.

    At its end no actor can start again, because its placement group is gone, and what the
    actors held is free: a run that follows at once chooses its lanes by that.
    """

    def __init__(self, run: LaneRun, shelf: ActorHandle[Any]) -> None:
        super().__init__("autolrs-probes")
        self._run = run
        self._shelf = shelf
        self._earlier_groups = set(_group_states(run.num_workers))
        self._groups: list[PlacementGroup] = []
        self._removed: list[str] = []
        self._actors: dict[str, ActorHandle[Any]] = {}
        self._running: dict[ray.ObjectRef[None], str] = {}
        self._failures: dict[str, int] = {}
        self._start_s = FIRST_START_S
        self._asked_at_s: float | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            super().__exit__(kind, error, traceback)
        finally:
            # A stack runs all of it, last one first, whatever one of them raises.
            with contextlib.ExitStack() as ending:
                ending.callback(self._wait_for_release)
                ending.callback(self._remove)

    def _work(self) -> None:
        """Start the actors once the workers have their places, and hold them while it pays."""
        while not self._workers_are_placed():
            if self._stop.wait(0.2):
                return
        while not self._stop.is_set():
            outlook = self._outlook()
            if outlook is not None:
                self._follow(outlook)
            if not self._running:
                self._stop.wait(0.5)
                continue
            ended, _ = ray.wait(list(self._running), timeout=0.5)
            for reference in ended:
                self._look_at(reference, self._running.pop(reference))

    def _follow(self, outlook: Outlook) -> None:
        """Ask for the actors before a search, and give them back where none is in sight."""
        held = len(self._actors) > 0
        wanted = wants_actors(outlook.next_search_s, self._start_s, held=held)
        if wanted and not held:
            self._start()
        elif held and not wanted:
            seconds = outlook.next_search_s
            why = f"{seconds:.3g} s away" if math.isfinite(seconds) else "not in sight"
            logger.info("%d probe actors given back: a search is %s", len(self._actors), why)
            self._remove()
        elif self._asked_at_s is not None and outlook.actors >= len(self._running):
            self._start_s, self._asked_at_s = time.monotonic() - self._asked_at_s, None

    def _outlook(self) -> Outlook | None:
        try:
            return cast("Outlook", ray.get(self._run.search.outlook.remote(), timeout=10.0))
        except (RayActorError, GetTimeoutError):
            return None

    def _workers_are_placed(self) -> bool:
        """Return whether the workers hold what they need, so that actors take nothing from them.

        Their placement group is Ray Train's, and known by its size only. If it is not, they are
        there once they have asked for a command.
        """
        states = _group_states(self._run.num_workers)
        if "CREATED" in {states[group] for group in states.keys() - self._earlier_groups}:
            return True
        try:
            answer: Any = ray.get(self._run.search.poll.remote(0), timeout=10.0)
        except (RayActorError, GetTimeoutError):
            return False
        _, status = cast("tuple[list[Record], Status]", answer)
        return status.command is not None

    def _start(self) -> None:
        self._asked_at_s = time.monotonic()
        for number in range(self._run.actors):
            name = f"actor-{number}"
            if not self._stop.is_set() and self._failures.get(name, 0) < MOST_FAILURES:
                self._start_actor(name)

    def _start_actor(self, name: str) -> None:
        run = self._run
        group = placement_group([run.resources_per_actor])
        self._groups.append(group)
        resources = dict(run.resources_per_actor)
        options: dict[str, Any] = {
            "num_cpus": resources.pop("CPU", 0),
            "num_gpus": resources.pop("GPU", 0),
            "resources": resources,
            "max_restarts": -1,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group),
            "runtime_env": run.runtime_env,
        }
        actor = (
            ray.remote(ProbeActor)
            .options(**options)
            .remote(name, run.task, run.settings, run.num_workers)
        )
        self._actors[name] = cast("ActorHandle[Any]", actor)
        self._failures.setdefault(name, 0)
        self._send(name)

    def _send(self, name: str) -> None:
        self._running[self._actors[name].run.remote(self._run.search, self._shelf)] = name

    def _look_at(self, reference: ray.ObjectRef[None], name: str) -> None:
        """See why a lane ended; unless the run is over, pass its probe on and start it again."""
        try:
            ray.get(reference)
            return
        except ActorUnavailableError:
            why = "its process was lost"
        except RayError as error:
            why = str(error).strip().splitlines()[-1]
            # Ray does not start an actor again that could not be built, or was ended by hand.
            is_gone = isinstance(error, ActorDiedError)
            self._failures[name] += MOST_FAILURES if is_gone else 1
        try:
            lost: Any = answer(self._run.search.give_back.remote(name))
        except (RayActorError, TimeoutError) as error:
            logger.warning("lane %s: %s, and %s", name, why, error)
            return
        probes = ", ".join(f"stage {stage} probe {index + 1}" for stage, index in lost) or "none"
        if self._failures[name] < MOST_FAILURES:
            logger.warning("lane %s: %s; given back: %s; it starts again", name, why, probes)
            self._send(name)
            return
        logger.warning("lane %s: %s; given back: %s; given up", name, why, probes)
        if not self._running:
            logger.warning("no probe actor is left: the training workers probe on by themselves")

    def _remove(self) -> None:
        """End the actors and give back what they hold; what they were running is lost."""
        with contextlib.ExitStack() as ending:
            for group in self._groups:
                ending.callback(remove_placement_group, group)
            for name, actor in self._actors.items():
                ending.callback(self._run.search.give_back.remote, name)
                ending.callback(ray.kill, actor, no_restart=True)
        self._removed += [group.id.hex() for group in self._groups]
        self._groups, self._actors, self._running = [], {}, {}

    def _wait_for_release(self) -> None:
        """Wait until no node holds anything for the groups.

        Ray tells their state as removed, and an actor as dead, before its node has heard of it.
        A node lists what it holds for a group as resources that have the group's id in their
        names, until it has ended the processes that used them.
        """
        deadline_s = time.monotonic() + RELEASE_TIMEOUT_S
        while held := _how_many_held(self._removed):
            if time.monotonic() > deadline_s:
                logger.warning(
                    "%d probe actors still hold their resources %g s after they were ended; "
                    "see their nodes in Ray's dashboard",
                    held,
                    RELEASE_TIMEOUT_S,
                )
                return
            time.sleep(0.02)


def _group_states(bundles: int) -> dict[str, str]:
    """Return the state of each placement group of so many bundles, by its id."""
    table: Any = placement_group_table()
    return {
        group: entry["state"] for group, entry in table.items() if len(entry["bundles"]) == bundles
    }


def _how_many_held(group_ids: list[str]) -> int:
    """Return for how many placement groups some node holds resources."""
    names: Any = ray.available_resources()  # type: ignore[no-untyped-call]
    return sum(any(group_id in name for name in names) for group_id in group_ids)
