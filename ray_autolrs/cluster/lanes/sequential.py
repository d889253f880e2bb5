"""The whole worker group together, one probe after the other: the reference of all kinds."""

from __future__ import annotations

from dataclasses import dataclass

from ray_autolrs.algorithm.stages.messages import Probe, ProbeDone
from ray_autolrs.cluster.lanes.lane import Lane
from ray_autolrs.cluster.search_line import SearchLine
from ray_autolrs.training.segment_run import Progress
from ray_autolrs.training.worker import Worker


@dataclass(frozen=True)
class Sequential(Lane):
    """All workers run each probe in lock-step, as they train."""

    name = "sequential"
    is_alone = False

    @staticmethod
    def count(num_workers: int, actors: int) -> int:
        return 1

    def explore(
        self, probe: Probe, worker: Worker, search: SearchLine, progress: Progress
    ) -> ProbeDone:
        return worker.run_probe(probe, progress)
