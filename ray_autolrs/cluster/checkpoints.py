"""Checkpoints: where they go, which one a run goes on from, and how it is saved and loaded."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ray.train
import torch
from pyarrow import fs
from ray.train import Checkpoint

from ray_autolrs.cluster.checkpoint_files import (
    MANIFEST_FILE,
    MODEL_FILE,
    STATE_FILE,
    DamagedCheckpointError,
    check_files,
    load_state,
    load_tensors,
    parse_manifest,
    write_manifest,
)
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.training.worker import Worker

logger = logging.getLogger(__name__)

KEPT_IN_PROCESS = 2
"""Checkpoints that a run in this process keeps where ``CheckpointConfig`` does not say: one to
go back to, should the newest be damaged."""


class Checkpoints(Protocol):
    """Where checkpoints go."""

    folder: RunFolder

    def save(self, files: Path | None, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the files in a folder, on rank 0; the others give None. All ranks call it.

        ``metrics`` are of the model at that step.
        """


class TrainCheckpoints:
    """Checkpoints through Ray Train, which uploads them to the run's storage.

    Args:
        folder: the run's.
        unscored: metrics of a checkpoint at whose step nothing was validated.
    """

    def __init__(self, folder: RunFolder, unscored: Mapping[str, float]) -> None:
        self.folder = folder
        self._unscored = unscored

    def save(self, files: Path | None, step: int, metrics: Mapping[str, float]) -> None:
        """Report a checkpoint; rank 0 uploads its files, and all ranks wait for it."""
        checkpoint = Checkpoint.from_directory(files) if files is not None else None
        ray.train.report({"step": step, **self._unscored, **metrics}, checkpoint=checkpoint)


class FolderCheckpoints:
    """Checkpoints as folders ``checkpoint_<step>`` in the run's folder; the newest ones stay.

    Those that Ray Train has written there are left to it.

    Args:
        folder: the run's, on a local disk.
        keep: how many stay.
    """

    def __init__(self, folder: RunFolder, keep: int = KEPT_IN_PROCESS) -> None:
        self.folder = folder
        self._keep = keep

    def save(self, files: Path | None, step: int, metrics: Mapping[str, float]) -> None:
        """Copy a folder under another name, sync it, and rename it: it is whole or absent."""
        assert files is not None, "a single worker is rank 0"
        run = Path(self.folder.path)
        temporary, target = run / "checkpoint.tmp", run / f"checkpoint_{step:09d}"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(files, temporary)
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        _sync(run)
        for old in sorted(run.glob("checkpoint_" + 9 * "[0-9]"))[: -self._keep]:
            shutil.rmtree(old)


class Stored(NamedTuple):
    """A checkpoint in a run's folder; they sort by their age.

    Attributes:
        step: applied steps done; -1 if it has no manifest that can be read.
        name: of its folder.
    """

    step: int
    name: str


def stored_checkpoints(folder: RunFolder) -> list[Stored]:
    """Return the checkpoints in a run's folder, whoever wrote them, oldest first."""
    found = []
    for name in folder.folders("checkpoint_"):
        try:
            step = parse_manifest(folder.read(f"{name}/{MANIFEST_FILE}"))["step"]
        except DamagedCheckpointError:
            step = -1
        found.append(Stored(step, name))
    return sorted(found)


def newest_checkpoint(folder: RunFolder) -> str:
    """Return the name of the checkpoint of the most steps."""
    return stored_checkpoints(folder)[-1].name


def missing_file(folder: RunFolder, name: str) -> str | None:
    """Return which file of a checkpoint with a model is not there, or not whole; None if all are.

    It looks at the files' sizes, not at what they hold.
    """
    try:
        files = parse_manifest(folder.read(f"{name}/{MANIFEST_FILE}"))["files"]
    except DamagedCheckpointError:
        return f"{name}/{MANIFEST_FILE}"
    for file in {MODEL_FILE, *files}:
        info = folder.filesystem.get_file_info(f"{folder.path}/{name}/{file}")
        if info.type == fs.FileType.NotFound or info.size != files.get(file, {}).get("bytes"):
            return f"{name}/{file}"
    return None


def load_checkpoint(worker: Worker, folder: RunFolder) -> int | None:
    """Restore the newest checkpoint that is whole, and return its step; None if there is none.

    Rank 0 finds it; the others read what it has found.

    Raises:
        ValueError: on every worker, if there are checkpoints and none of them can be read.
    """
    group, device = worker.group, worker.replica.device
    name: str | None = None
    state: dict[str, Any] = {}
    refused: list[str] = []
    if group.rank == 0:
        # Those without a manifest first: one of them may be the newest, and is to be named.
        newest_first = stored_checkpoints(folder)[::-1]
        for _, candidate in sorted(newest_first, key=lambda stored: stored.step >= 0):
            try:
                state = _read_whole(worker, folder, candidate)
            except DamagedCheckpointError as error:
                logger.warning(
                    "checkpoint %s/%s: %s; taking an older one", folder.path, candidate, error
                )
                refused.append(f"{candidate}: {error}")
                continue
            name = candidate
            break
    name, refused = group.broadcast_object((name, refused))
    if name is None and refused:
        raise ValueError(
            f"{folder.path} has no checkpoint that can be read ({'; '.join(refused)}); use another "
            "name for a new run, or delete these folders to train this one again from its start"
        )
    if name is None:
        return None
    if group.rank > 0:
        with Checkpoint(f"{folder.path}/{name}", folder.filesystem).as_directory() as path:
            step = parse_manifest((Path(path) / MANIFEST_FILE).read_bytes())["step"]
            state = load_state(Path(path), step, _to(device))
    state.pop("best")
    positions = state.pop("batches", [])
    worker.snapshot.load_state_dict(state)
    if positions:
        # Another number of workers shares a stream out anew.
        mine = positions[worker.group.rank] if len(positions) == worker.group.size else None
        worker.engine.batches.go_on_from(mine, worker.snapshot.step)
    return worker.snapshot.restore(worker.replica)


def save_checkpoint(
    worker: Worker,
    checkpoints: Checkpoints,
    *,
    with_model: bool,
    metrics: Mapping[str, float],
) -> None:
    """Save the worker's snapshot, and the best model so far or, if asked for, the present one."""
    position = worker.engine.batches.position(worker.snapshot.step)
    positions = [] if position is None else worker.group.gather(position)
    if worker.group.rank > 0:
        checkpoints.save(None, worker.snapshot.step, metrics)
        return
    with tempfile.TemporaryDirectory(prefix="autolrs-") as path:
        files, best = Path(path), worker.best
        state = worker.snapshot.state_dict() | {
            "best": {"step": best.step, "loss": best.loss},
            "batches": positions,
        }
        torch.save(state, files / STATE_FILE)
        if best.step >= 0:
            torch.save(best.state, files / MODEL_FILE)
        elif with_model:
            with worker.averaged(worker.snapshot.step):
                torch.save(worker.replica.module.state_dict(), files / MODEL_FILE)
        write_manifest(files, worker.snapshot.step)
        checkpoints.save(files, worker.snapshot.step, metrics)


def _read_whole(worker: Worker, folder: RunFolder, name: str) -> dict[str, Any]:
    """Check and load a checkpoint on rank 0, the best model with it."""
    with Checkpoint(f"{folder.path}/{name}", folder.filesystem).as_directory() as path:
        files = Path(path)
        step = check_files(files)["step"]
        state = load_state(files, step, _to(worker.replica.device))
        best = state["best"]
        if best["step"] >= 0:
            worker.best.state = load_tensors(files / MODEL_FILE, "cpu")
            worker.best.step, worker.best.loss = best["step"], best["loss"]
    return state


def _to(device: torch.device) -> Any:
    def place(storage: Any, location: str) -> Any:
        # Tensors of any GPU come to this worker's; what lived on the CPU stays there.
        return storage if location == "cpu" else storage.to(device=device)

    return place


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
