"""Checkpoints: what is in them, and where they go."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import ray.train
import torch
from ray.train import Checkpoint

from ray_autolrs.training.worker import Worker

STATE_FILE = "state.pt"
"""In every checkpoint: all that a restart needs, as ``Snapshot.state_dict``."""

MODEL_FILE = "model.pt"
"""The trained model's ``state_dict``: in the last checkpoint, and with ``keep_best`` the best so
far in each."""


class Checkpoints(Protocol):
    """Where checkpoints go."""

    def latest(self) -> AbstractContextManager[Path | None]:
        """Give a local folder with the latest checkpoint's files, or None, for a while."""

    def save(self, folder: Path | None, step: int) -> None:
        """Keep the files in ``folder``, on rank 0; the others give None. All ranks call it."""


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


class FolderCheckpoints:
    """Checkpoints as folders ``checkpoint_<step>`` in the run's folder; the newest two stay."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        """Give the newest checkpoint's folder, or None."""
        found = self.all()
        yield found[-1] if found else None

    def save(self, folder: Path | None, step: int) -> None:
        """Copy a folder under a temporary name, then rename it: a checkpoint is whole or absent."""
        assert folder is not None, "a single worker is rank 0"
        temporary = self._folder / "checkpoint.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(folder, temporary)
        target = self._folder / f"checkpoint_{step:09d}"
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        for old in self.all()[:-2]:
            shutil.rmtree(old)

    def all(self) -> list[Path]:
        """Return the folders of the checkpoints, oldest first."""
        return sorted(self._folder.glob("checkpoint_[0-9]*"))


def load_checkpoint(worker: Worker, checkpoints: Checkpoints) -> int | None:
    """Restore the latest checkpoint, and return its step; None if there is none."""
    device = worker.replica.device

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
        positions = state.pop("batches", [])
        if best["step"] >= 0 and worker.group.rank == 0:
            worker.best.step, worker.best.loss = best["step"], best["loss"]
            worker.best.state = torch.load(
                folder / MODEL_FILE, map_location="cpu", weights_only=False
            )
    worker.snapshot.load_state_dict(state)
    if positions:
        # Another number of workers shares a stream out anew.
        mine = positions[worker.group.rank] if len(positions) == worker.group.size else None
        worker.engine.batches.go_on_from(mine, worker.snapshot.step)
    return worker.snapshot.restore(worker.replica)


def save_checkpoint(worker: Worker, checkpoints: Checkpoints, *, with_model: bool) -> None:
    """Save the worker's snapshot, and the best model so far or, if asked for, the present one."""
    position = worker.engine.batches.position(worker.snapshot.step)
    positions = [] if position is None else worker.group.gather(position)
    if worker.group.rank > 0:
        checkpoints.save(None, worker.snapshot.step)
        return
    with tempfile.TemporaryDirectory(prefix="autolrs-") as folder:
        best = worker.best
        state = worker.snapshot.state_dict() | {
            "best": {"step": best.step, "loss": best.loss},
            "batches": positions,
        }
        torch.save(state, Path(folder) / STATE_FILE)
        if best.step >= 0:
            torch.save(best.state, Path(folder) / MODEL_FILE)
        elif with_model:
            with worker.averaged(worker.snapshot.step):
                torch.save(worker.replica.module.state_dict(), Path(folder) / MODEL_FILE)
        checkpoints.save(Path(folder), worker.snapshot.step)
