"""The one interface of all kinds of lanes.

A lane is anything that can run one probe from a stage's snapshot. A kind of lane says who that is
while a run is searched. Every kind gives the same losses for a probe, so that the schedule does not
depend on it.

A kind is a file of this folder with one subclass of :class:`Lane`, and ``Lanes(kind=NAME)`` asks
for it by its name; no other file knows the kinds.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from ray_autolrs.algorithm.search.strategy import SearchStrategy
    from ray_autolrs.algorithm.stages.messages import Probe, ProbeDone
    from ray_autolrs.cluster.search_line import SearchLine
    from ray_autolrs.task import TrainingTask
    from ray_autolrs.training.segment_run import Progress
    from ray_autolrs.training.settings import TrainingSettings
    from ray_autolrs.training.worker import Worker


@dataclass(frozen=True, kw_only=True, slots=True)
class LaneRun:
    """A run on Ray, as a kind of lane sees it in the driver.

    Attributes:
        name: the run's name.
        task: what is trained.
        settings: of the training, resolved.
        num_workers: training workers.
        search: the search actor.
        actors: probe actors to start.
        resources_per_actor: what each of them holds.
        runtime_env: of the training workers, and so of the actors.
        strategy: how stages are searched, where lanes run a search only if that is faster; None
            where they were asked for.
    """

    name: str
    task: TrainingTask
    settings: TrainingSettings
    num_workers: int
    search: ActorHandle[Any]
    actors: int
    resources_per_actor: dict[str, float]
    runtime_env: dict[str, Any] = field(default_factory=dict)
    strategy: SearchStrategy | None = None


class Lane(ABC):
    """A kind of lane, as a small value that is sent to every training worker."""

    name: ClassVar[str]
    """What ``Lanes.kind`` calls it."""

    is_alone: ClassVar[bool] = True
    """Whether one process runs a probe by itself, which not every model allows."""

    has_actors: ClassVar[bool] = False
    """Whether it runs probes on actors besides the training workers."""

    @staticmethod
    @abstractmethod
    def count(num_workers: int, actors: int) -> int:
        """Return how many probes can run at the same time with so many workers and actors."""

    def beside_workers(self, run: LaneRun) -> AbstractContextManager[Lane]:
        """Start what it needs in the driver, and end it with the run; gives the workers' lane."""
        return contextlib.nullcontext(self)

    @abstractmethod
    def explore(
        self, probe: Probe, worker: Worker, search: SearchLine, progress: Progress
    ) -> ProbeDone | None:
        """Search a stage, or a part of its search. Every training worker calls it.

        Args:
            probe: the first probe that is to be run.
            worker: this training worker; it holds the stage's snapshot.
            search: the line to the search actor, on every worker.
            progress: told how a probe goes.

        Returns:
            The outcome of ``probe``, run by all workers together; None after a stage whose probes
            were pulled from the search actor and told to it.
        """
