"""The loop of the training workers: ask for a command, carry it out, tell the outcome.

All workers run it in lock-step. Rank 0 asks the search actor, once for each command and never
once for each step, and shares the answer. A checkpoint is saved whenever the applied model has
moved on: at the start of the run and after the warm-up and each stage. Who runs the probes of a
stage is up to the kind of lane.
"""

from __future__ import annotations

import torch

from ray_autolrs.algorithm.stages.messages import Apply, Event, Finish, Probe, Ready
from ray_autolrs.cluster.checkpoints import Checkpoints, load_checkpoint, save_checkpoint
from ray_autolrs.cluster.lanes.choice import possible_lane
from ray_autolrs.cluster.lanes.lane import Lane
from ray_autolrs.cluster.live_progress import LiveProgress
from ray_autolrs.cluster.ray_train_hooks import metrics_of
from ray_autolrs.cluster.search_actor import SearchLine
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.worker import Worker


def worker_loop(
    task: TrainingTask,
    config: AutoLRSConfig,
    group: Group,
    device: torch.device,
    search: SearchLine,
    checkpoints: Checkpoints,
    lane: Lane,
) -> None:
    """Train to the end, from the latest checkpoint if there is one.

    Raises:
        ValueError: the task is refused, before anything is trained, or its model cannot be
            probed by one worker alone, as ``config.lanes`` asks for.
        SearchFailedError: no LR of a stage can be applied.
    """
    worker = Worker(task, config.training_settings(), group, device)
    saved_step = load_checkpoint(worker, checkpoints.folder)
    if saved_step is None:
        worker.take_snapshot(0)
        worker.check_first_loss()
    module, batches = worker.replica.module, worker.engine.batches
    lane = possible_lane(lane, config.lanes, module, batches)
    event: Event | None = Ready(worker.snapshot.step, worker.replica.base_momentum)
    progress = LiveProgress(worker, search)
    while True:
        progress.flush()
        command = group.broadcast_object(search.exchange(event) if group.rank == 0 else None)
        progress.begin(command)
        # Saved after the exchange: a checkpoint that the log knows nothing of could not be used.
        if worker.snapshot.step != saved_step:
            save_checkpoint(
                worker,
                checkpoints,
                with_model=isinstance(command, Finish),
                metrics=metrics_of(event),
            )
            saved_step = worker.snapshot.step
        match command:
            case Probe():
                event = lane.explore(command, worker, search, progress)
            case Apply():
                event = worker.run_apply(command, progress)
                if not event.diverged:
                    worker.take_snapshot(command.segment.last_step + 1)
            case Finish():
                return
