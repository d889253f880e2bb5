"""What a run leaves, as ``fit()`` returns it or as it is read from the run's folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pyarrow import fs
from ray.train import Checkpoint

from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.cluster.checkpoint_loading import stored_checkpoints
from ray_autolrs.cluster.event_log import read_events
from ray_autolrs.cluster.run_folder import (
    CONFIG_FILE,
    SCHEDULE_FILE,
    RunFolder,
)
from ray_autolrs.cluster.used_folder import checkpoint_of, finished_record
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.report.costs import Costs, count_costs
from ray_autolrs.report.evaluations import Means, evaluations, saved_step
from ray_autolrs.report.history import history_frame
from ray_autolrs.report.main_picture import main_picture
from ray_autolrs.report.run_view import RunView
from ray_autolrs.schedule import LRSchedule
from ray_autolrs.settings_tree import StoredSettings, from_stored

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class AutoLRSResult:
    """What a run leaves: all that ``ray.train.Result`` has, and what was found.

    Attributes:
        settings: what it ran with, resolved, as its ``config.json`` holds it.
        schedule: the learning-rate schedule that it found and trained with.
        checkpoint: the trained model: ``model.pt`` is the module's ``state_dict``.
        path: the run's folder.
        events: the records of its log, in order.
        best_checkpoints: those that its folder still holds, oldest first, each with the
            validation at its step, as far as there was one, and the ``"step"``.
        given_config: see :attr:`config`.
        error: None: a run that fails raises its error out of ``fit()``, and leaves no result.
    """

    settings: StoredSettings
    schedule: LRSchedule
    checkpoint: Checkpoint
    path: str
    events: tuple[Record, ...]
    best_checkpoints: list[tuple[Checkpoint, Means]]
    given_config: AutoLRSConfig | None = None
    error: Exception | None = None

    @property
    def config(self) -> AutoLRSConfig:
        """The settings that it ran with, resolved.

        Raises:
            ValueError: the result was read by :meth:`from_path`.
        """
        if self.given_config is None:
            raise ValueError(
                f"{self.path} holds its settings as plain data, and no classes are built from it: "
                "read result.settings, or take the config that the run was made with"
            )
        return self.given_config

    @property
    def filesystem(self) -> fs.FileSystem:
        """Where :attr:`path` lies."""
        return self.checkpoint.filesystem

    @property
    def history(self) -> pd.DataFrame:
        """One row for each probe and each evaluation; see :mod:`ray_autolrs.report.history`."""
        return history_frame(self.events)

    @property
    def costs(self) -> Costs:
        """Applied steps and probe steps, and their seconds."""
        return count_costs(self.events)

    @property
    def metrics(self) -> Means:
        """The saved model's validation: ``"loss"`` and the task's metrics over the whole set."""
        by_step = evaluations(self.events)
        keep_best = self.settings["settings"]["validation"]["keep_best"]
        return by_step[saved_step(by_step, keep_best=keep_best)]

    @property
    def metrics_dataframe(self) -> pd.DataFrame:
        """One row for each evaluation: ``"step"``, ``"loss"`` and the task's metrics."""
        import pandas as pd

        return pd.DataFrame(
            [{"step": step, **means} for step, means in evaluations(self.events).items()]
        )

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the main picture: LR and loss over the steps, and what the LRs promised.

        Args:
            path: image file to write as well; its suffix gives the format.

        Raises:
            ImportError: Matplotlib is missing.
        """
        name = Path(self.path).name
        figure = main_picture(RunView(name, self.events, self.settings, self.schedule))
        if path is not None:
            figure.savefig(os.fspath(path))
        return figure

    def get_best_checkpoint(self, metric: str, mode: Literal["min", "max"]) -> Checkpoint | None:
        """Return the checkpoint of the folder with the smallest or the largest value of a metric.

        Raises:
            ValueError: ``mode`` is another one, or no checkpoint has a finite value of the metric.
        """
        if mode not in ("min", "max"):
            raise ValueError(f"mode={mode!r} must be 'min' or 'max'")
        if not self.best_checkpoints:
            return None
        having = [pair for pair in self.best_checkpoints if pair[1].get(metric) is not None]
        if not having:
            names = sorted({name for _, metrics in self.best_checkpoints for name in metrics})
            raise ValueError(f"metric={metric!r} must be one of {', '.join(names)}")
        choose = min if mode == "min" else max
        return choose(having, key=lambda pair: pair[1][metric])[0]

    @classmethod
    def from_path(
        cls, path: str | os.PathLike[str], storage_filesystem: fs.FileSystem | None = None
    ) -> AutoLRSResult:
        """Read the result of a run that has ended.

        Args:
            path: the run's folder, a local path or a URI.
            storage_filesystem: how to reach it, or None to tell from its form.

        Raises:
            ValueError: it is not a run's folder, or the run has not ended; fit() goes on with it.
        """
        folder = RunFolder.of_run(path, storage_filesystem)
        events = read_events(folder) or []
        if finished_record(events) is None:
            raise ValueError(
                f"the run in {folder.path} has not ended; fit() by its name goes on with it"
            )
        stored = folder.read_json(SCHEDULE_FILE)
        if stored is None:
            raise ValueError(
                f"{folder.path} lacks {SCHEDULE_FILE}; fit() by its name makes it again"
            )
        return read_result(folder, events, LRSchedule.from_dict(stored))


def read_result(
    folder: RunFolder,
    events: list[Record],
    schedule: LRSchedule,
    config: AutoLRSConfig | None = None,
) -> AutoLRSResult:
    """Return the result of a finished run.

    Args:
        folder: the run's.
        events: of its log.
        schedule: what it found.
        config: what it ran with, resolved, where that is known.

    Raises:
        ValueError: the checkpoint or the settings are not there, or not whole.
    """
    finished = finished_record(events)
    assert finished is not None, folder.path
    means = evaluations(events)

    def metrics_at(step: int) -> Means:
        return {"step": float(step), **means.get(step, {})}

    return AutoLRSResult(
        settings=from_stored(folder.read_json(CONFIG_FILE)),
        schedule=schedule,
        checkpoint=Checkpoint(checkpoint_of(folder, finished), folder.filesystem),
        path=folder.path,
        events=tuple(events),
        best_checkpoints=[
            (Checkpoint(f"{folder.path}/{stored.name}", folder.filesystem), metrics_at(stored.step))
            for stored in stored_checkpoints(folder)
            if stored.step >= 0
        ],
        given_config=config,
    )
