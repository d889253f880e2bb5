"""A run on Ray: it starts, watches and ends the search actor, the workers and their lanes."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayTaskError
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    CheckpointUploadMode,
    RunConfig,
    ScalingConfig,
    WorkerGroupError,
)

from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from ray_autolrs.cluster.checkpoint_store import CheckpointStore, Place
from ray_autolrs.cluster.checks import (
    check_workers,
    checkpoints_to_keep,
    cluster_resources,
    resource_limits,
    worker_environment,
)
from ray_autolrs.cluster.departure import stored_before_sigterm, stored_before_worker_ends
from ray_autolrs.cluster.drains import DrainWatch
from ray_autolrs.cluster.driver_actor import start_beside_driver
from ray_autolrs.cluster.finishing import FinishRelay
from ray_autolrs.cluster.lanes.choice import LaneChoice, choose_lanes, lanes_for
from ray_autolrs.cluster.lanes.lane import LaneRun
from ray_autolrs.cluster.ray_metrics import ray_metrics
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_actor import SearchActor
from ray_autolrs.cluster.search_line import RemoteSearch
from ray_autolrs.cluster.session import record_session
from ray_autolrs.cluster.sink_feed import SinkFeed
from ray_autolrs.cluster.worker_loop import worker_loop
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.sinks.sink import Sink
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import ProcessGroup, Solo

logger = logging.getLogger(__name__)

HEALTH_CHECK_VARIABLE = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
START_TIMEOUT_VARIABLE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"

TRAIN_VARIABLES = {
    # Each report waits for the controller's next look at its workers: by default every 2 s.
    HEALTH_CHECK_VARIABLE: "0.2",
    # Workers that are not there in time are ended and started again, without end. Where machines
    # are so busy that a process takes longer than the default minute, a run would never begin.
    START_TIMEOUT_VARIABLE: "300",
}
"""Of Ray Train's controller."""


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
    choice = _choose_lanes(task, config, num_workers, scaling_config)
    logger.info(
        "probe lanes: %s, %d at once (%s)", choice.lane.name, choice.parallel_probes, choice.reason
    )
    gpus = scaling_config.total_resources.get("GPU", 0)
    gpus += choice.actors * choice.resources_per_actor.get("GPU", 0)
    record_session(folder, owner, workers=num_workers, gpus=gpus)
    actor = start_beside_driver(
        SearchActor,
        f"search-{run_config.name}",
        config,
        folder,
        choice.parallel_probes,
        owner,
        num_workers,
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
        strategy=config.search if config.lanes.kind == "auto" else None,
    )
    keep = checkpoints_to_keep(config.checkpoints, run_config)
    settings = {"task": task, "config": config, "search": search, "folder": folder, "keep": keep}
    settings["reports"] = bool(run_config.callbacks)
    settings["driver_node"] = ray.get_runtime_context().get_node_id()
    relay = FinishRelay(finish_requested, search.finish)
    told = [*sinks, ray_metrics(run.name)]
    feed = SinkFeed(search.poll, config.total_steps, told)
    try:
        departure = stored_before_sigterm(folder, search.store_soon)
        beside = choice.lane.beside_workers(run)
        with departure, beside as lane, relay, feed, _ray_train_variables():
            ray.train.torch.TorchTrainer(
                _train_worker,
                train_loop_config=settings | {"lane": lane},
                torch_config=torch_config,
                scaling_config=scaling_config,
                # Ray Train stores no checkpoint, so it must not delete any.
                run_config=dataclasses.replace(run_config, checkpoint_config=CheckpointConfig()),
            ).fit()
    except WorkerGroupError as error:
        cause = _user_error(error)
        if cause is None:
            raise
        raise cause from error


@contextlib.contextmanager
def _ray_train_variables() -> Iterator[None]:
    """Set what Ray Train's controller has no other way to be told, unless the user has set it.

    It reads them when it starts, and they are taken away afterwards.
    """
    ours = {name: value for name, value in TRAIN_VARIABLES.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _choose_lanes(
    task: TrainingTask, config: AutoLRSConfig, num_workers: int, scaling_config: ScalingConfig
) -> LaneChoice:
    total = scaling_config.total_resources
    held, limits = cluster_resources(), resource_limits()
    return choose_lanes(
        lanes_for(config.lanes, task),
        config.search,
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
    task: TrainingTask = settings["task"]
    # One worker shards too, so that a run goes on with more of them.
    alone = world_size == 1 and task.parallelism == "ddp"
    group = Solo() if alone else ProcessGroup(device)
    config: AutoLRSConfig = settings["config"]
    folder: RunFolder = settings["folder"]
    store = CheckpointStore(folder, keep=settings["keep"], keeps_best=config.checkpoints.best)
    search: RemoteSearch = settings["search"]
    nodes = group.gather(ray.get_runtime_context().get_node_id())
    drains = DrainWatch([*nodes, settings["driver_node"]] if group.rank == 0 else [])
    with drains, stored_before_worker_ends(folder, search.store_soon):
        told = worker_loop(
            task,
            config,
            group,
            device,
            search,
            store,
            settings["lane"],
            # Each report waits for the controller: only if somebody hears of it.
            report=ray.train.report if settings["reports"] else None,
            is_leaving=drains.sees_drain,
        )
    # Ray Train, and callbacks in ``RunConfig``, hear of the trained model; it is stored already.
    storage = ray.train.get_context().get_storage()
    name = Place(int(told["step"])).name
    last = Checkpoint(f"{folder.path}/{name}", storage.storage_filesystem)
    ray.train.report(
        told,
        checkpoint=last if group.rank == 0 else None,
        checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
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
