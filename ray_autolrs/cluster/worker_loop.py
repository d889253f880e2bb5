"""The loop of the training workers: ask for a command, carry it out, tell the outcome.

All workers run it in lock-step. Rank 0 asks the search actor, once for each command and never
once for each step, and shares the answer. A checkpoint is saved whenever the applied model has
moved on: at the start of the run and after the warm-up and each stage.

With lanes, each worker pulls probes by itself while a stage is searched, and runs them alone on
the whole global batch; all meet again to apply the LR that was chosen.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch

from ray_autolrs.algorithm.stages.messages import (
    Apply,
    Command,
    Event,
    Finish,
    Probe,
    ProbeDone,
    Ready,
)
from ray_autolrs.cluster.lane_choice import LaneKind
from ray_autolrs.cluster.leases import Assignment, Idle, Over
from ray_autolrs.cluster.search_actor import WORKER_LANE
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Group
from ray_autolrs.training.lone_lanes import lone_lane_obstacle
from ray_autolrs.training.transport import PackedState, pack
from ray_autolrs.training.worker import Progress, Worker

logger = logging.getLogger(__name__)

STATE_FILE = "state.pt"
"""In every checkpoint: all that a restart needs, as ``Snapshot.state_dict``."""

MODEL_FILE = "model.pt"
"""The trained model's ``state_dict``: in the last checkpoint, and with ``keep_best`` the best so
far in each."""

HEARTBEAT_INTERVAL_S = 0.2


class Conductor(Protocol):
    """Rank 0's line to the search actor."""

    def exchange(self, event: Event | None) -> Command:
        """Tell an event, or nothing, and return the next command."""

    def pull(self, lane: str, told: ProbeDone | None, *, stays: bool) -> Assignment:
        """Tell what a lane has run, and return what it is to run next."""

    def heartbeat(self, steps_done: int, loss: float) -> None:
        """Tell the progress of the current command; does not wait."""

    def publish(self, step: int, snapshot: PackedState) -> None:
        """Share a stage's snapshot with the probe actors; does not wait for them."""


class Checkpoints(Protocol):
    """Where checkpoints go."""

    def latest(self) -> AbstractContextManager[Path | None]:
        """Give a local folder with the latest checkpoint's files, or None, for a while."""

    def save(self, folder: Path | None, step: int) -> None:
        """Keep the files in ``folder``, on rank 0; the others give None. All ranks call it."""


def worker_loop(
    task: TrainingTask,
    config: AutoLRSConfig,
    group: Group,
    device: torch.device,
    conductor: Conductor,
    checkpoints: Checkpoints,
    lanes: LaneKind = "sequential",
) -> None:
    """Train to the end, from the latest checkpoint if there is one.

    Raises:
        ValueError: the task is refused, before anything is trained, or its model cannot be
            probed by one worker alone, as ``config.probe_lanes`` asks for.
        SearchFailedError: no LR of a stage can be applied.
    """
    worker = Worker(task, config, group, device)
    saved_step = _load(worker, checkpoints, device)
    if saved_step is None:
        worker.take_snapshot(0)
        worker.check_first_loss()
    lanes = _possible_lanes(worker, config, lanes)
    event: Event | None = Ready(worker.snapshot.step)
    progress = _heartbeats(conductor) if group.rank == 0 else _silence
    while True:
        command = group.broadcast_object(conductor.exchange(event) if group.rank == 0 else None)
        # Saved after the exchange: a checkpoint that the log knows nothing of could not be used.
        if worker.snapshot.step != saved_step:
            _save(worker, checkpoints, with_model=isinstance(command, Finish))
            saved_step = worker.snapshot.step
        match command:
            case Probe() if lanes == "sequential":
                event = worker.run_probe(command, progress)
            case Probe():
                if lanes == "actors" and group.rank == 0:
                    packed = pack(worker.snapshot.state_dict())
                    conductor.publish(worker.snapshot.step, packed)
                _explore(worker, conductor, progress)
                event = None
            case Apply():
                event = worker.run_apply(command, progress)
                if not event.diverged:
                    worker.take_snapshot(command.segment.last_step + 1)
            case Finish():
                return


def _possible_lanes(worker: Worker, config: AutoLRSConfig, lanes: LaneKind) -> LaneKind:
    """Return the lanes that the model allows; it is the same on every worker."""
    obstacle = lone_lane_obstacle(worker.replica.module)
    if lanes == "sequential" or obstacle is None:
        return lanes
    if config.probe_lanes != "auto":
        raise ValueError(
            f"probe_lanes={config.probe_lanes!r} needs workers that can train alone, and "
            f"{obstacle}; use probe_lanes='sequential'"
        )
    logger.warning("probes run one after the other, on all workers: %s", obstacle)
    return "sequential"


def _explore(worker: Worker, conductor: Conductor, progress: Progress) -> None:
    """Run probes alone until the stage's search is over. Whoever applies next restores first."""
    lane = f"{WORKER_LANE}{worker.group.rank}"
    told: ProbeDone | None = None
    while True:
        assignment = conductor.pull(lane, told, stays=False)
        told = None
        match assignment:
            case Probe():
                told = worker.run_probe(assignment, progress, alone=True)
            case Idle():
                continue
            case Over():
                return


def _load(worker: Worker, checkpoints: Checkpoints, device: torch.device) -> int | None:
    """Restore the latest checkpoint, and return its step."""

    def on_device(storage: Any, location: str) -> Any:
        # Tensors of any GPU come to this worker's; what lived on the CPU stays there.
        return storage if location == "cpu" else storage.to(device=device)

    with checkpoints.latest() as folder:
        if folder is None:
            return None
        # Not weights_only: a module's extra state may be any object, and a run reads only
        # checkpoints that it wrote itself.
        state = torch.load(folder / STATE_FILE, map_location=on_device, weights_only=False)
        best = state.pop("best")
        if best["step"] >= 0 and worker.group.rank == 0:
            worker.best.step, worker.best.loss = best["step"], best["loss"]
            worker.best.state = torch.load(
                folder / MODEL_FILE, map_location="cpu", weights_only=False
            )
    worker.snapshot.load_state_dict(state)
    return worker.snapshot.restore(worker.replica)


def _save(worker: Worker, checkpoints: Checkpoints, *, with_model: bool) -> None:
    if worker.group.rank > 0:
        checkpoints.save(None, worker.snapshot.step)
        return
    with tempfile.TemporaryDirectory(prefix="autolrs-") as folder:
        best = worker.best
        state = worker.snapshot.state_dict() | {"best": {"step": best.step, "loss": best.loss}}
        torch.save(state, Path(folder) / STATE_FILE)
        if best.step >= 0:
            torch.save(best.state, Path(folder) / MODEL_FILE)
        elif with_model:
            with worker.averaged(worker.snapshot.step):
                torch.save(worker.replica.module.state_dict(), Path(folder) / MODEL_FILE)
        checkpoints.save(Path(folder), worker.snapshot.step)


def _heartbeats(conductor: Conductor) -> Callable[[int, float], None]:
    last_s = 0.0

    def heartbeat(steps_done: int, loss: float) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= HEARTBEAT_INTERVAL_S:
            last_s = now_s
            conductor.heartbeat(steps_done, loss)

    return heartbeat


def _silence(steps_done: int, loss: float) -> None:
    return
