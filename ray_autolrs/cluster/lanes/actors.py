"""The training workers, and probe actors on free resources."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.actor import ActorHandle

from ray_autolrs.algorithm.search.strategy import SearchStrategy
from ray_autolrs.algorithm.stages.messages import Probe, ProbeDone
from ray_autolrs.cluster.driver_actor import start_beside_driver
from ray_autolrs.cluster.lanes.expected_time import lanes_pay
from ray_autolrs.cluster.lanes.lane import Lane, LaneRun
from ray_autolrs.cluster.lanes.probe_pool import ProbePool
from ray_autolrs.cluster.lanes.snapshot_shelf import SnapshotShelf
from ray_autolrs.cluster.lanes.workers import pull_probes
from ray_autolrs.cluster.search_line import SearchLine
from ray_autolrs.training.segment_run import Progress
from ray_autolrs.training.transport import pack
from ray_autolrs.training.worker import Worker


@dataclass(frozen=True)
class Actors(Lane):
    """Actors elsewhere in the cluster pull probes, and so do the workers.

    Attributes:
        shelf: takes a stage's snapshot over; None before the driver has started it.
        strategy: how stages are searched, where the workers search a stage together if too few
            actors are there when its search begins; None where lanes always run it.
    """

    shelf: ActorHandle[Any] | None = None
    strategy: SearchStrategy | None = None

    name = "actors"
    has_actors = True

    @staticmethod
    def count(num_workers: int, actors: int) -> int:
        return num_workers + actors

    @contextlib.contextmanager
    def beside_workers(self, run: LaneRun) -> Iterator[Lane]:
        shelf = start_beside_driver(SnapshotShelf, f"snapshots-{run.name}")
        with ProbePool(run, shelf):
            yield Actors(shelf, run.strategy)

    def explore(
        self, probe: Probe, worker: Worker, search: SearchLine, progress: Progress
    ) -> ProbeDone | None:
        if not self._pays(probe.stage, worker, search):
            return worker.run_probe(probe, progress)
        if worker.group.rank == 0:
            self.publish(worker)
        pull_probes(worker, search, progress)
        return None

    def publish(self, worker: Worker) -> None:
        """Put the stage's snapshot into the object store, once; does not wait for the shelf."""
        assert self.shelf is not None, "the driver has started no shelf"
        packed = pack(worker.snapshot.state_dict())
        self.shelf.offer.remote(worker.snapshot.step, [ray.put(packed)])

    def _pays(self, stage: int, worker: Worker, search: SearchLine) -> bool:
        """Return whether lanes search a stage sooner; the answer is the same on every worker."""
        group = worker.group
        if self.strategy is None or group.size == 1:  # One worker is as fast alone as together.
            return True
        waiting = group.broadcast_object(search.waiting_lanes(stage) if group.rank == 0 else None)
        rounds = partial(self.strategy.expected_rounds, stage)
        return lanes_pay(rounds, group.size, lanes=group.size + waiting)
