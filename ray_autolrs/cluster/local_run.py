"""A run in this process, without Ray: for ``ScalingConfig(num_workers=0)``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import torch
from ray.train import RunConfig

from ray_autolrs.cluster.checkpoint_store import CheckpointStore
from ray_autolrs.cluster.checks import checkpoints_to_keep
from ray_autolrs.cluster.departure import stored_before_sigterm
from ray_autolrs.cluster.finishing import FinishRelay
from ray_autolrs.cluster.lanes.choice import lane_in_process
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_actor import SearchActor
from ray_autolrs.cluster.session import record_session
from ray_autolrs.cluster.sink_feed import SinkFeed
from ray_autolrs.cluster.worker_loop import worker_loop
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.sinks.sink import Sink
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Solo

logger = logging.getLogger(__name__)


def run_locally(
    task: TrainingTask,
    config: AutoLRSConfig,
    folder: RunFolder,
    run_config: RunConfig,
    finish_requested: threading.Event,
    sinks: Sequence[Sink],
    owner: str,
) -> None:
    """Train in this process; ``owner`` holds the run's lease.

    Raises:
        ValueError: the folder is not on a local disk, probe lanes are asked for, or the task is
            refused.
        SearchFailedError: no LR of a stage can be applied.
    """
    lane = lane_in_process(config.lanes)
    if not folder.is_local:
        raise ValueError(
            f"storage_path of {folder.path!r} must be local for num_workers=0; give a local path "
            "or train with at least one worker"
        )
    record_session(folder, owner, workers=0, gpus=int(torch.cuda.is_available()))
    actor = SearchActor(config, folder, owner=owner)
    keep = checkpoints_to_keep(config.checkpoints, run_config)
    store = CheckpointStore(folder, keep=keep, keeps_best=config.checkpoints.best)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    logger.info("training in this process on %s", device)
    relay = FinishRelay(finish_requested, actor.finish)
    departure = stored_before_sigterm(folder, actor.store_soon)
    with departure, relay, SinkFeed(actor.poll, config.total_steps, sinks):
        worker_loop(task, config, Solo(), device, actor, store, lane)
