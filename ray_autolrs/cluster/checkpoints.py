"""The workers' state is stored: between stages and, when it is due, within them."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from ray_autolrs.checkpoint_settings import Checkpoints
from ray_autolrs.cluster.checkpoint_files import MODEL_FILE, STATE_FILE, Entries
from ray_autolrs.cluster.checkpoint_store import LOSS_KEY, ON_NOTICE, CheckpointStore, Place
from ray_autolrs.cluster.checkpoint_times import CheckpointTimes
from ray_autolrs.cluster.checkpoint_writer import CheckpointWriter, Draft
from ray_autolrs.cluster.staged_shards import stage_shards
from ray_autolrs.training.begun_segment import KnownSteps, command_name
from ray_autolrs.training.best_weights import BestWeights
from ray_autolrs.training.segment_run import SegmentRun
from ray_autolrs.training.sharding import state_on_cpu
from ray_autolrs.training.snapshot import Snapshot
from ray_autolrs.training.worker import Worker


class StateKeeper:
    """Stores the workers' state, from rank 0: between stages and, when it is due, within them.

    Training stands still only while the state is copied to host memory; of a sharded model, while
    each worker writes its shards. Within a probe or a stage
    nothing is stored while the last checkpoint is still being written. Probes that a worker or an
    actor runs by itself are not stored: they are at most a tenth of a stage, there are as many
    states as lanes, and what they have told is in the log.

    Args:
        worker: whose state it is; all workers of the group have one.
        store: where to.
        settings: when.
        is_urgent: tells whether a process or a machine of the run is about to go: the state is
            then stored again and again.

    Attributes:
        writer: on rank 0, within the context; else None.
    """

    def __init__(
        self,
        worker: Worker,
        store: CheckpointStore,
        settings: Checkpoints,
        is_urgent: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_urgent = is_urgent
        self._worker = worker
        self._store = store
        self._settings = settings
        self._times = CheckpointTimes(settings, time.monotonic())
        self.writer: CheckpointWriter | None = None
        self._number = 0
        self._lowest_loss = math.inf
        self._run: SegmentRun | None = None
        self._done = 0

    def __enter__(self) -> StateKeeper:
        if self._worker.group.rank == 0:
            self._number = self._store.last_number()
            if self._settings.best:
                self._lowest_loss = self._store.lowest_loss()
            self._store.delete_staged()
            self.writer = CheckpointWriter(self._store, self._times.written)
        # Within a stage rank 0 stores by itself, and of a sharded model all do.
        if self._worker.replica.is_sharded or self.writer is not None:
            self._worker.keeper = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._worker.keeper = None
        if self.writer is None:
            return
        try:
            if error is None:
                self.writer.flush()
        finally:
            self.writer.close()

    def save_stage(self, loss: float | None, *, is_last: bool) -> None:
        """Store the state that a stage begins with. All workers call it, in that state.

        Args:
            loss: the validation loss there, if it was taken.
            is_last: the run ends there, so that the model is stored too.

        Raises:
            ValueError: the state is no plain data.
            OSError: the last checkpoints could not be written.
        """
        worker = self._worker
        step = worker.snapshot.step
        position = worker.engine.batches.position(step)
        positions = [] if position is None else worker.group.gather(position)
        if not worker.gathers_model:
            return
        started_s = time.perf_counter()
        best = worker.best
        state: dict[str, Any] = {}
        staged: Entries = {}
        copy = self._copied(step) if self.writer is not None else None
        if worker.replica.is_sharded:
            state, staged = stage_shards(worker.snapshot, worker.group, self._store, Place(step))
        elif copy is not None:
            state = copy.state_dict()
        model = best.state
        if best.step < 0 and is_last:
            with worker.averaged(step):
                model = state_on_cpu(worker.replica.module)
        if self.writer is None or copy is None:
            return
        of_run = {"best": {"step": best.step, "loss": best.loss}, "batches": positions}
        files = {STATE_FILE: state | of_run} | ({MODEL_FILE: model} if model else {})
        copied_s = time.perf_counter() - started_s
        told = self._told(loss)
        self.writer.submit(Draft(Place(step), copy, lambda: files, told, copied_s, staged))

    def look(self, run: SegmentRun, done: int) -> None:
        """Store the state within a probe or a stage, if it is due.

        Rank 0 calls it; of a sharded model, all workers do, and do as rank 0 says.
        """
        loss = run.loss_after(done)
        is_due = self.writer is not None and self._is_due(run, done, loss)
        place = Place(self._worker.snapshot.step, self._number + 1) if is_due else None
        if self._worker.replica.is_sharded:
            place = self._worker.group.broadcast_object(place)
        if place is not None:
            self._save_within(run, done, loss, place)

    def _is_due(self, run: SegmentRun, done: int, loss: float | None) -> bool:
        assert self.writer is not None, "rank 0 decides"
        self.writer.check()
        if run is not self._run:
            self._run, self._done = run, run.begun_steps
        is_due = self._times.is_due(time.monotonic(), done - self._done)
        self._done = done
        is_better = self._settings.best and loss is not None and loss < self._lowest_loss
        return (is_due or is_better or self._is_urgent()) and self.writer.is_idle

    def _save_within(self, run: SegmentRun, done: int, loss: float | None, place: Place) -> None:
        started_s = time.perf_counter()
        worker, name = self._worker, command_name(run.command)
        copy = self._copied(place.step + done) if self.writer is not None else None
        staged: Entries = {}
        state = copy.state_dict if copy is not None else dict
        if worker.replica.is_sharded:
            # Written as it is: a copy would need room for it, and training waits either way.
            lent = Snapshot()
            lent.lend(worker.replica, place.step + done)
            rest, staged = stage_shards(lent, worker.group, self._store, place)
            state = rest.copy
        if self.writer is None or copy is None:
            return
        best = run.best_so_far()
        files = functools.partial(files_within, state, place.step, name, run.known, best)
        copied_s = time.perf_counter() - started_s
        self._number = place.number
        told = self._told(loss) | {"command": name, "done_steps": done}
        self.writer.submit(Draft(place, copy, files, told, copied_s, staged))

    def _told(self, loss: float | None) -> dict[str, Any]:
        """Return what a manifest says of a validation loss, and of what it was stored for."""
        told: dict[str, Any] = {ON_NOTICE: True} if self._is_urgent() else {}
        if loss is not None:
            self._lowest_loss = min(self._lowest_loss, loss)
            told[LOSS_KEY] = loss
        return told

    def _copied(self, step: int) -> Snapshot:
        """Return a copy of the replica's state before a step; of a sharded one it is empty."""
        assert self.writer is not None
        copy = self.writer.free_copy()
        if not self._worker.replica.is_sharded:
            copy.capture(self._worker.replica, step)
        self._times.begun(time.monotonic())
        return copy


def files_within(
    state: Callable[[], dict[str, Any]],
    start: int,
    name: Mapping[str, Any],
    known: KnownSteps,
    best: BestWeights,
) -> dict[str, Any]:
    """Return the files of a checkpoint within a stage; the thread that writes them calls it.

    Args:
        state: returns the state.
        start: applied steps before the stage.
        name: of the command that is under way.
        known: of its steps so far.
        best: the best weights among them.
    """
    within = {"start": start, "command": name, "known": known.to_plain()}
    told = {"best": {"step": best.step, "loss": best.loss}, "within": within}
    files: dict[str, Any] = {STATE_FILE: state() | told}
    if best.step >= 0:
        files[MODEL_FILE] = best.state
    return files
