"""A run on Ray: one search actor, one Ray Train worker group for the whole run, probe actors."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
import ray.train.torch
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError
from ray.train import Checkpoint, RunConfig, ScalingConfig, WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_autolrs.algorithm.stages.messages import Command, Event, ProbeDone
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from ray_autolrs.cluster.checks import check_workers, cluster_resources, resource_limits
from ray_autolrs.cluster.finishing import FinishRelay
from ray_autolrs.cluster.lane_choice import LaneChoice, choose_lanes
from ray_autolrs.cluster.leases import Assignment
from ray_autolrs.cluster.probe_actor import ProbePool, SnapshotShelf
from ray_autolrs.cluster.progress import ProgressDisplay
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_actor import SearchActor, Status
from ray_autolrs.cluster.worker_loop import worker_loop
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import ProcessGroup, Solo
from ray_autolrs.training.transport import PackedState

logger = logging.getLogger(__name__)

MOST_CALLERS = 256
"""Calls that the search actor answers at the same time: its lanes, and a few more."""

ANSWER_TIMEOUT_S = 600.0
"""Longest wait for the search actor's answer. It needs under a second; a restart, some more."""


class RemoteConductor:
    """The line to a search actor in another process, and to the shelf of snapshots.

    Each call that waits raises ``TimeoutError`` after ``ANSWER_TIMEOUT_S``.
    """

    def __init__(self, actor: ActorHandle[Any], shelf: ActorHandle[Any] | None) -> None:
        self._actor = actor
        self._shelf = shelf

    def exchange(self, event: Event | None) -> Command:
        """Tell an event, and wait for the next command."""
        return cast("Command", _answer(self._actor.exchange.remote(event)))

    def pull(self, lane: str, told: ProbeDone | None, *, stays: bool) -> Assignment:
        """Tell what a lane has run, and wait for its next probe."""
        return cast("Assignment", _answer(self._actor.pull.remote(lane, told, stays=stays)))

    def heartbeat(self, steps_done: int, loss: float) -> None:
        """Tell the progress, without waiting for the answer."""
        self._actor.heartbeat.remote(steps_done, loss)

    def finish(self) -> None:
        """Tell that a run without a known end is to end."""
        _answer(self._actor.finish.remote())

    def poll(self, first_record: int) -> tuple[list[Record], Status]:
        """Ask for what is new in the log, and what is going on."""
        answer = _answer(self._actor.poll.remote(first_record))
        return cast("tuple[list[Record], Status]", answer)

    def publish(self, step: int, snapshot: PackedState) -> None:
        """Put a snapshot into the object store, once, and let the shelf take it over."""
        assert self._shelf is not None, "a snapshot is published for probe actors only"
        self._shelf.offer.remote(step, [ray.put(snapshot)])


def _answer(reference: ray.ObjectRef[Any]) -> Any:
    try:
        return ray.get(reference, timeout=ANSWER_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError as error:
        raise TimeoutError(
            f"the search actor did not answer in {ANSWER_TIMEOUT_S:g} s; see its log in Ray's "
            "dashboard and the state of its node"
        ) from error


class TrainCheckpoints:
    """Checkpoints through Ray Train, which uploads them to the run's storage."""

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        """Give a local copy of the latest checkpoint, or None."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)

    def save(self, folder: Path | None, step: int) -> None:
        """Report a checkpoint; rank 0 uploads its files, and all ranks wait for it."""
        checkpoint = Checkpoint.from_directory(folder) if folder is not None else None
        ray.train.report({"step": step}, checkpoint=checkpoint)


def run_on_ray(
    task: TrainingTask,
    config: AutoLRSConfig,
    folder: RunFolder,
    scaling_config: ScalingConfig,
    run_config: RunConfig,
    finish_requested: threading.Event,
) -> str:
    """Train on the Ray cluster that this process is connected to; return the checkpoint's path.

    Raises:
        ValueError: more probe actors are asked for than fit, or a worker refused the task.
        SearchFailedError: no LR of a stage can be applied.
        ray.train.TrainingFailedError: workers were lost more often than ``run_config`` allows.
    """
    num_workers = check_workers(scaling_config)
    choice = _choose_lanes(config, num_workers, scaling_config)
    logger.info(
        "probe lanes: %s, %d at once (%s)", choice.kind, choice.parallel_probes, choice.reason
    )
    search = start_beside_driver(
        SearchActor, f"search-{run_config.name}", config, folder, choice.parallel_probes
    )
    shelf = None
    pool: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if choice.actors > 0:
        shelf = start_beside_driver(SnapshotShelf, f"snapshots-{run_config.name}")
        pool = ProbePool(choice, task, config, num_workers, search, shelf)
    conductor = RemoteConductor(search, shelf)
    # Each report waits for the controller's next look at its workers, 2 s apart by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    trainer = ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config={
            "task": task,
            "config": config,
            "conductor": conductor,
            "lanes": choice.kind,
        },
        scaling_config=scaling_config,
        run_config=run_config,
    )
    try:
        relay = FinishRelay(finish_requested, conductor.finish)
        with pool, relay, ProgressDisplay(conductor.poll, config.total_steps):
            result = trainer.fit()
    except WorkerGroupError as error:
        cause = _user_error(error)
        if cause is None:
            raise
        raise cause from error
    assert result.checkpoint is not None, result
    return str(result.checkpoint.path)


def _choose_lanes(
    config: AutoLRSConfig, num_workers: int, scaling_config: ScalingConfig
) -> LaneChoice:
    total = scaling_config.total_resources
    held, limits = cluster_resources(), resource_limits()
    return choose_lanes(
        config,
        num_workers,
        {name: amount / num_workers for name, amount in total.items()},
        ray.available_resources(),  # type: ignore[no-untyped-call]
        limits,
        autoscales=limits != held,
    )


def start_beside_driver(actor_class: type, name: str, *arguments: Any) -> ActorHandle[Any]:
    """Start an actor on the driver's node, whose disk the run's folder may be on.

    It holds no CPU, and answers many lanes at the same time: most of them wait in it.
    """
    node_id = ray.get_runtime_context().get_node_id()
    handle: Any = (
        ray.remote(actor_class)
        .options(
            name=f"autolrs-{name}-{uuid.uuid4().hex[:8]}",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=MOST_CALLERS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        )
        .remote(*arguments)
    )
    return cast("ActorHandle[Any]", handle)


def _train_worker(settings: dict[str, Any]) -> None:
    """Run the workers' loop in a Ray Train worker."""
    device = ray.train.torch.get_device()
    world_size = ray.train.get_context().get_world_size()
    group = ProcessGroup(device) if world_size > 1 else Solo()
    worker_loop(
        settings["task"],
        settings["config"],
        group,
        device,
        settings["conductor"],
        TrainCheckpoints(),
        settings["lanes"],
    )


def _user_error(error: WorkerGroupError) -> Exception | None:
    """Return the error that a user can act on, out of Ray's wrappings, or None.

    Workers that waited for the one at fault fail too, so all of them are looked at.
    """
    for failure in error.worker_failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, RayTaskError):
                cause = cause.cause
            if isinstance(cause, (ValueError, SearchFailedError)):
                return cause
            cause = getattr(cause, "_base_exc", None)
    return None
