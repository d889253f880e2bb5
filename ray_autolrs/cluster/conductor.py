"""A run on Ray: it starts, watches and ends the search actor, the workers and their lanes."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, cast

import ray
import ray.train
import ray.train.torch
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError
from ray.train import RunConfig, ScalingConfig, WorkerGroupError

from ray_autolrs.algorithm.stages.messages import Command, Event, ProbeDone
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from ray_autolrs.cluster.checkpoints import TrainCheckpoints
from ray_autolrs.cluster.checks import (
    check_workers,
    cluster_resources,
    resource_limits,
    worker_environment,
)
from ray_autolrs.cluster.driver_actor import start_beside_driver
from ray_autolrs.cluster.finishing import FinishRelay
from ray_autolrs.cluster.lanes.choice import LaneChoice, choose_lanes
from ray_autolrs.cluster.lanes.lane import LaneRun
from ray_autolrs.cluster.lanes.leases import Assignment
from ray_autolrs.cluster.ray_train_hooks import worst_score
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_actor import SearchActor
from ray_autolrs.cluster.session import record_session
from ray_autolrs.cluster.sink_feed import SinkFeed
from ray_autolrs.cluster.worker_loop import worker_loop
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.sinks.sink import Measurement, Sink, Status
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import ProcessGroup, Solo

logger = logging.getLogger(__name__)

HEALTH_CHECK_VARIABLE = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"

ANSWER_TIMEOUT_S = 600.0
"""Longest wait for the search actor's answer. It needs under a second; a restart, some more."""


class RemoteSearch:
    """The line to a search actor in another process.

    Each call that waits raises ``TimeoutError`` after ``ANSWER_TIMEOUT_S``.
    """

    def __init__(self, actor: ActorHandle[Any]) -> None:
        self._actor = actor

    def exchange(self, event: Event | None) -> Command:
        """Tell an event, and wait for the next command."""
        return cast("Command", _answer(self._actor.exchange.remote(event)))

    def pull(self, lane: str, told: ProbeDone | None, *, stays: bool) -> Assignment:
        """Tell what a lane has run, and wait for its next probe."""
        return cast("Assignment", _answer(self._actor.pull.remote(lane, told, stays=stays)))

    def heartbeat(self, steps_done: int, loss: float) -> None:
        """Tell the progress, without waiting for the answer."""
        self._actor.heartbeat.remote(steps_done, loss)

    def measured(self, measurements: tuple[Measurement, ...]) -> None:
        """Tell what was measured of the applied model, without waiting for the answer."""
        self._actor.measured.remote(measurements)

    def finish(self) -> None:
        """Tell that a run without a known end is to end."""
        _answer(self._actor.finish.remote())

    def poll(self, first_record: int) -> tuple[list[Record], Status]:
        """Ask for what is new in the log, and what is going on."""
        answer = _answer(self._actor.poll.remote(first_record))
        return cast("tuple[list[Record], Status]", answer)


def _answer(reference: ray.ObjectRef[Any]) -> Any:
    try:
        return ray.get(reference, timeout=ANSWER_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError as error:
        raise TimeoutError(
            f"the search actor did not answer in {ANSWER_TIMEOUT_S:g} s; see its log in Ray's "
            "dashboard and the state of its node"
        ) from error


def run_on_ray(
    task: TrainingTask,
    config: AutoLRSConfig,
    folder: RunFolder,
    scaling_config: ScalingConfig,
    run_config: RunConfig,
    finish_requested: threading.Event,
    sinks: Sequence[Sink],
    owner: str,
    torch_config: ray.train.torch.TorchConfig | None = None,
) -> None:
    """Train on the Ray cluster that this process is connected to.

    ``owner`` holds the run's lease.

    Raises:
        ValueError: more probe actors are asked for than fit, or a worker refused the task.
        SearchFailedError: no LR of a stage can be applied.
        ray.train.TrainingFailedError: workers were lost more often than ``run_config`` allows.
    """
    num_workers = check_workers(scaling_config)
    choice = _choose_lanes(config, num_workers, scaling_config)
    logger.info(
        "probe lanes: %s, %d at once (%s)", choice.lane.name, choice.parallel_probes, choice.reason
    )
    gpus = scaling_config.total_resources.get("GPU", 0)
    gpus += choice.actors * choice.resources_per_actor.get("GPU", 0)
    record_session(folder, owner, workers=num_workers, gpus=gpus)
    actor = start_beside_driver(
        SearchActor, f"search-{run_config.name}", config, folder, choice.parallel_probes, owner
    )
    search = RemoteSearch(actor)
    run = LaneRun(
        name=str(run_config.name),
        task=task,
        settings=config.training_settings(),
        num_workers=num_workers,
        search=actor,
        actors=choice.actors,
        resources_per_actor=choice.resources_per_actor,
        runtime_env=worker_environment(run_config),
    )
    settings = {"task": task, "config": config, "folder": folder, "search": search}
    relay = FinishRelay(finish_requested, search.finish)
    feed = SinkFeed(search.poll, config.total_steps, sinks)
    try:
        with choice.lane.beside_workers(run) as lane, relay, feed, _prompt_reports():
            ray.train.torch.TorchTrainer(
                _train_worker,
                train_loop_config=settings | {"lane": lane, "unscored": worst_score(run_config)},
                torch_config=torch_config,
                scaling_config=scaling_config,
                run_config=run_config,
            ).fit()
    except WorkerGroupError as error:
        cause = _user_error(error)
        if cause is None:
            raise
        raise cause from error


@contextlib.contextmanager
def _prompt_reports() -> Iterator[None]:
    """Let Ray Train's controller look at its workers often, unless the user has said how often.

    Each report waits for its next look, and they are 2 s apart by default. The controller has no
    other way to be told than an environment variable, which is read when it starts.
    """
    if HEALTH_CHECK_VARIABLE in os.environ:
        yield
        return
    os.environ[HEALTH_CHECK_VARIABLE] = "0.2"
    try:
        yield
    finally:
        os.environ.pop(HEALTH_CHECK_VARIABLE, None)


def _choose_lanes(
    config: AutoLRSConfig, num_workers: int, scaling_config: ScalingConfig
) -> LaneChoice:
    total = scaling_config.total_resources
    held, limits = cluster_resources(), resource_limits()
    return choose_lanes(
        config.lanes,
        config.search.most_parallel_probes,
        num_workers,
        {name: amount / num_workers for name, amount in total.items()},
        ray.available_resources(),  # type: ignore[no-untyped-call]
        limits,
        autoscales=limits != held,
    )


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
        settings["search"],
        TrainCheckpoints(settings["folder"], settings["unscored"]),
        settings["lane"],
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
