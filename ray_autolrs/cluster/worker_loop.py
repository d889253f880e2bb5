"""The loop of the training workers: ask for a command, carry it out, tell the outcome.

All workers run it in lock-step. Rank 0 asks the search actor, once for each command and never
once for each step, and shares the answer. A checkpoint is saved whenever the applied model has
moved on, at the start of the run and after the warm-up and each stage, and when one is due within
a stage. Who runs the probes of a stage is up to the kind of lane.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from ray_autolrs.algorithm.stages.messages import Apply, Event, Finish, Probe, Ready
from ray_autolrs.cluster.checkpoint_loading import load_checkpoint
from ray_autolrs.cluster.checkpoint_store import CheckpointStore
from ray_autolrs.cluster.checkpoints import StateKeeper
from ray_autolrs.cluster.lanes.choice import possible_lane
from ray_autolrs.cluster.lanes.lane import Lane
from ray_autolrs.cluster.live_progress import LiveProgress
from ray_autolrs.cluster.ray_train_hooks import metrics_of
from ray_autolrs.cluster.search_line import SearchLine
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.memory import held_text
from ray_autolrs.training.worker import Worker

logger = logging.getLogger(__name__)

Report = Callable[[dict[str, float]], None]


def worker_loop(
    task: TrainingTask,
    config: AutoLRSConfig,
    group: Group,
    device: torch.device,
    search: SearchLine,
    store: CheckpointStore,
    lane: Lane,
    *,
    report: Report | None = None,
    is_leaving: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Train to the end, from the latest checkpoint if there is one; then the last one is stored.

    Args:
        task: what to train.
        config: the run's settings, resolved.
        group: the workers in lock-step.
        device: where this worker's model lives.
        search: the line to the search actor.
        store: where checkpoints go.
        lane: who runs the probes.
        report: called by all workers after the warm-up and each stage but the last.
        is_leaving: tells rank 0 whether a machine of the run is about to go, so that the state is
            to be stored.

    Returns:
        What ``report`` is told of a stage, of the last one: the applied steps as ``"step"``, and
        its validation means (:func:`ray_autolrs.cluster.ray_train_hooks.metrics_of`).

    Raises:
        ValueError: the task is refused, before anything is trained, or its model cannot be
            probed by one worker alone, as ``config.lanes`` asks for.
        SearchFailedError: no LR of a stage can be applied.
        OSError: checkpoints cannot be stored.
    """
    worker = Worker(task, config.training_settings(), group, device)
    saved_step = load_checkpoint(worker, store)
    if saved_step is None:
        worker.take_snapshot(0)
        worker.check_first_loss()
    module, batches = worker.replica.module, worker.engine.batches
    lane = possible_lane(lane, config.lanes, module, batches)
    if group.rank == 0:
        logger.info("%s", held_text(worker.replica))
    event: Event | None = _ready(worker)
    progress = LiveProgress(worker, search)
    told: dict[str, float] = {"step": worker.snapshot.step}

    def is_urgent() -> bool:
        return progress.is_urgent or is_leaving()

    with StateKeeper(worker, store, config.checkpoints, is_urgent) as keeper:
        while True:
            progress.flush()
            command = group.broadcast_object(search.exchange(event) if group.rank == 0 else None)
            progress.begin(command)
            # Saved after the exchange: a checkpoint that the log knows nothing of could not be
            # used.
            if worker.snapshot.step != saved_step:
                saved_step, metrics = worker.snapshot.step, metrics_of(event)
                keeper.save_stage(metrics.get("loss"), is_last=isinstance(command, Finish))
                told = {"step": saved_step, **metrics}
                if report is not None and not isinstance(command, Finish):
                    report(told)
            match command:
                case Probe():
                    event = lane.explore(command, worker, search, progress)
                case Apply():
                    event = worker.run_apply(command, progress)
                    if not event.diverged:
                        worker.take_snapshot(command.segment.last_step + 1)
                case Finish():
                    return told


def _ready(worker: Worker) -> Ready:
    begun = worker.begun
    return Ready(
        step=worker.snapshot.step,
        base_momentum=worker.replica.base_momentum,
        begun=None if begun is None else begun.address,
        done_steps=0 if begun is None else len(begun.known.losses),
    )
