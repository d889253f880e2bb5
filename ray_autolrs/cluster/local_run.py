"""A run in this process, without Ray: for ``ScalingConfig(num_workers=0)``."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from ray_autolrs.cluster.finishing import FinishRelay
from ray_autolrs.cluster.progress import ProgressDisplay
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_actor import SearchActor
from ray_autolrs.cluster.worker_loop import worker_loop
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.transport import PackedState

logger = logging.getLogger(__name__)


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


class LocalConductor:
    """The line to a search actor in this process."""

    def __init__(self, actor: SearchActor) -> None:
        self.exchange = actor.exchange
        self.pull = actor.pull
        self.heartbeat = actor.heartbeat

    def publish(self, step: int, snapshot: PackedState) -> None:
        """Do nothing: there are no probe actors."""


def run_locally(
    task: TrainingTask, config: AutoLRSConfig, folder: RunFolder, finish_requested: threading.Event
) -> str:
    """Train in this process, and return the last checkpoint's path.

    Raises:
        ValueError: the folder is not on a local disk, probe lanes are asked for, or the task is
            refused.
        SearchFailedError: no LR of a stage can be applied.
    """
    if config.probe_lanes in ("workers", "actors"):
        raise ValueError(
            f"probe_lanes={config.probe_lanes!r} needs Ray workers, and num_workers=0 trains in "
            "this process; use probe_lanes='sequential'"
        )
    if not folder.is_local:
        raise ValueError(
            f"storage_path of {folder.path!r} must be local for num_workers=0; give a local path "
            "or train with at least one worker"
        )
    actor = SearchActor(config, folder)
    checkpoints = FolderCheckpoints(Path(folder.path))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    logger.info("training in this process on %s", device)
    relay = FinishRelay(finish_requested, actor.finish)
    with relay, ProgressDisplay(actor.poll, config.total_steps):
        worker_loop(task, config, Solo(), device, LocalConductor(actor), checkpoints)
    return str(checkpoints.all()[-1])
