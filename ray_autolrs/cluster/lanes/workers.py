"""Each training worker by itself, on the whole global batch."""

from __future__ import annotations

from dataclasses import dataclass

from ray_autolrs.algorithm.stages.messages import Probe, ProbeDone
from ray_autolrs.cluster.lanes.lane import Lane
from ray_autolrs.cluster.lanes.leases import WORKER_LANE, Idle, Over
from ray_autolrs.cluster.search_line import SearchLine
from ray_autolrs.training.segment_run import Progress
from ray_autolrs.training.worker import Worker


@dataclass(frozen=True)
class Workers(Lane):
    """Every worker pulls probes by itself; all meet again to apply the LR that was chosen."""

    name = "workers"

    @staticmethod
    def count(num_workers: int, actors: int) -> int:
        return num_workers

    def explore(self, probe: Probe, worker: Worker, search: SearchLine, progress: Progress) -> None:
        pull_probes(worker, search, progress)


def pull_probes(worker: Worker, search: SearchLine, progress: Progress) -> None:
    """Run probes alone until the stage's search is over. Whoever applies next restores first."""
    lane = f"{WORKER_LANE}{worker.group.rank}"
    told: ProbeDone | None = None
    while True:
        assignment = search.pull(lane, told, stays=False)
        told = None
        match assignment:
            case Probe():
                told = worker.run_probe(assignment, progress, alone=True)
            case Idle():
                continue
            case Over():
                return
