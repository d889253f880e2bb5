"""A probe actor: a process elsewhere in the cluster that runs one probe after the other."""

from __future__ import annotations

from typing import Any, cast

import ray
import torch
from ray.actor import ActorHandle

from ray_autolrs.algorithm.stages.messages import Probe, ProbeDone
from ray_autolrs.cluster.lanes.leases import Assignment, Idle, Over
from ray_autolrs.cluster.search_line import answer
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.settings import TrainingSettings
from ray_autolrs.training.transport import PackedState, unpack
from ray_autolrs.training.worker import Worker


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
            pulled: Any = search.pull.remote(self._name, told, stays=True)
            assignment = cast("Assignment", answer(pulled))
            told = None
            match assignment:
                case Probe() if self._load(assignment.segment.first_step, shelf):
                    told = self._worker.run_probe(assignment, lambda steps, loss: None, alone=True)
                case Probe():  # The shelf has lost its snapshot: the workers have theirs.
                    answer(search.give_back.remote(self._name))
                case Idle():
                    continue
                case Over():
                    return

    def _load(self, step: int, shelf: ActorHandle[Any]) -> bool:
        """Read the stage's snapshot, unless it is the one at hand; return whether it is there."""
        snapshot = self._worker.snapshot
        if snapshot.step != step:
            holder: Any = answer(shelf.take.remote(step), "the shelf of snapshots")
            if not holder:
                return False
            packed = cast("PackedState", answer(holder[0], "the holder of the snapshot"))
            snapshot.load_state_dict(unpack(packed, self._device))
        return True
