"""The training workers, and probe actors on free resources: the pool that keeps them alive."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    RayActorError,
    RayError,
)
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ray_autolrs.algorithm.stages.messages import Probe, ProbeDone
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.cluster.background import Background
from ray_autolrs.cluster.driver_actor import start_beside_driver
from ray_autolrs.cluster.lanes.lane import Lane, LaneRun
from ray_autolrs.cluster.lanes.leases import Assignment, Idle, Over
from ray_autolrs.cluster.lanes.snapshot_shelf import SnapshotShelf
from ray_autolrs.cluster.lanes.workers import pull_probes
from ray_autolrs.cluster.search_actor import SearchLine
from ray_autolrs.sinks.sink import Status
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.segment_run import Progress
from ray_autolrs.training.settings import TrainingSettings
from ray_autolrs.training.transport import PackedState, pack, unpack
from ray_autolrs.training.worker import Worker

logger = logging.getLogger(__name__)

MOST_FAILURES = 3
"""Failures of one actor's own code after which it is given up; a lost process is no failure."""

RELEASE_TIMEOUT_S = 30.0
"""Longest wait at a run's end for what the actors held. Two idle cores need 0.05 to 0.15 s."""


@dataclass(frozen=True)
class Actors(Lane):
    """Actors elsewhere in the cluster pull probes, and so do the workers.

    Attributes:
        shelf: takes a stage's snapshot over; None before the driver has started it.
    """

    shelf: ActorHandle[Any] | None = None

    name = "actors"
    has_actors = True

    @staticmethod
    def count(num_workers: int, actors: int) -> int:
        return num_workers + actors

    @contextlib.contextmanager
    def beside_workers(self, run: LaneRun) -> Iterator[Lane]:
        shelf = start_beside_driver(SnapshotShelf, f"snapshots-{run.name}")
        with ProbePool(run, shelf):
            yield Actors(shelf)

    def explore(self, probe: Probe, worker: Worker, search: SearchLine, progress: Progress) -> None:
        if worker.group.rank == 0:
            self.publish(worker)
        pull_probes(worker, search, progress)

    def publish(self, worker: Worker) -> None:
        """Put the stage's snapshot into the object store, once; does not wait for the shelf."""
        assert self.shelf is not None, "the driver has started no shelf"
        packed = pack(worker.snapshot.state_dict())
        self.shelf.offer.remote(worker.snapshot.step, [ray.put(packed)])


class ProbeActor:
    """A lane of its own: builds the task once, and runs one probe after the other.

    Args:
        name: the lane's name.
        task: what is trained.
        settings: the run's, resolved.
        num_workers: training workers, whose micro-batches it takes one after the other.
    """

    def __init__(
        self, name: str, task: TrainingTask, settings: TrainingSettings, num_workers: int
    ) -> None:
        self._name = name
        self._device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self._worker = Worker(task, settings, Solo(), self._device, num_workers=num_workers)

    def run(self, search: ActorHandle[Any], shelf: ActorHandle[Any]) -> None:
        """Run probes until the run is over.

        Args:
            search: the search actor, which gives the probes.
            shelf: where the snapshots are.
        """
        told: ProbeDone | None = None
        while True:
            assignment = cast(
                "Assignment", ray.get(search.pull.remote(self._name, told, stays=True))
            )
            told = None
            match assignment:
                case Probe() if self._load(assignment.segment.first_step, shelf):
                    told = self._worker.run_probe(assignment, lambda steps, loss: None, alone=True)
                case Probe():  # The shelf has lost its snapshot: the workers have theirs.
                    ray.get(search.give_back.remote(self._name))
                case Idle():
                    continue
                case Over():
                    return

    def _load(self, step: int, shelf: ActorHandle[Any]) -> bool:
        """Read the stage's snapshot, unless it is the one at hand; return whether it is there."""
        snapshot = self._worker.snapshot
        if snapshot.step != step:
            holder: Any = ray.get(shelf.take.remote(step))
            if not holder:
                return False
            packed = cast("PackedState", ray.get(holder[0]))
            snapshot.load_state_dict(unpack(packed, self._device))
        return True


class ProbePool(Background):
    """Starts probe actors and watches over them, from a thread of its own.

    Each actor has a placement group of its own, so that the first can begin before there is
    room for the last. An actor whose process or node is lost gives its probe back and is started
    again by Ray where there is room.

    At its end no actor can start again, because its placement group is gone, and what the
    actors held is free: a run that follows at once chooses its lanes by that.
    """

    def __init__(self, run: LaneRun, shelf: ActorHandle[Any]) -> None:
        super().__init__("autolrs-probes")
        self._run = run
        self._shelf = shelf
        self._groups: list[PlacementGroup] = []
        self._actors: dict[str, ActorHandle[Any]] = {}
        self._running: dict[ray.ObjectRef[None], str] = {}
        self._failures: dict[str, int] = {}

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
                for group in self._groups:
                    ending.callback(remove_placement_group, group)
                for actor in self._actors.values():
                    ending.callback(ray.kill, actor, no_restart=True)

    def _wait_for_release(self) -> None:
        """Wait until no node holds anything for the groups.

        Ray tells their state as removed, and an actor as dead, before its node has heard of it.
        A node lists what it holds for a group as resources that have the group's id in their
        names, until it has ended the processes that used them.
        """
        ids = [group.id.hex() for group in self._groups]
        deadline_s = time.monotonic() + RELEASE_TIMEOUT_S
        while held := _how_many_held(ids):
            if time.monotonic() > deadline_s:
                logger.warning(
                    "%d probe actors still hold their resources %g s after they were ended; "
                    "see their nodes in Ray's dashboard",
                    held,
                    RELEASE_TIMEOUT_S,
                )
                return
            time.sleep(0.02)

    def _work(self) -> None:
        """Start the actors once the workers have their places, then wait for those that end."""
        while not self._stop.is_set() and not self._workers_are_ready():
            self._stop.wait(0.2)
        if self._stop.is_set():
            return
        for number in range(self._run.actors):
            if not self._stop.is_set():
                self._start(f"actor-{number}")
        while self._running and not self._stop.is_set():
            ended, _ = ray.wait(list(self._running), timeout=0.5)
            for reference in ended:
                self._look_at(reference, self._running.pop(reference))

    def _workers_are_ready(self) -> bool:
        try:
            answer: Any = ray.get(self._run.search.poll.remote(0), timeout=10.0)
        except (RayActorError, GetTimeoutError):
            return False
        _, status = cast("tuple[list[Record], Status]", answer)
        return status.command is not None

    def _start(self, name: str) -> None:
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
        self._failures[name] = 0
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
        lost: Any = ray.get(self._run.search.give_back.remote(name))
        probes = ", ".join(f"stage {stage} probe {index + 1}" for stage, index in lost) or "none"
        if self._failures[name] < MOST_FAILURES:
            logger.warning("lane %s: %s; given back: %s; it starts again", name, why, probes)
            self._send(name)
            return
        logger.warning("lane %s: %s; given back: %s; given up", name, why, probes)
        if not self._running:
            logger.warning("no probe actor is left: the training workers probe on by themselves")


def _how_many_held(group_ids: list[str]) -> int:
    """Return for how many placement groups some node holds resources."""
    names: Any = ray.available_resources()  # type: ignore[no-untyped-call]
    return sum(any(group_id in name for name in names) for group_id in group_ids)
