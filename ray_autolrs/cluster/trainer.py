"""The trainer: what a user calls."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.train import Checkpoint, RunConfig, ScalingConfig

from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.cluster.checks import check_cluster, check_picklable, check_workers
from ray_autolrs.cluster.conductor import run_on_ray
from ray_autolrs.cluster.finishing import finish_on_signal
from ray_autolrs.cluster.interval import range_test_steps, with_interval
from ray_autolrs.cluster.lanes.choice import check_lanes
from ray_autolrs.cluster.local_run import run_locally
from ray_autolrs.cluster.run_folder import (
    CONFIG_FILE,
    EVENTS_FILE,
    SCHEDULE_FILE,
    EventLog,
    RunFolder,
    parse_events,
)
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.report.costs import Costs, count_costs
from ray_autolrs.report.history import history_frame
from ray_autolrs.schedule import LRSchedule
from ray_autolrs.sinks.log import LogSink
from ray_autolrs.sinks.progress_bar import ProgressBar
from ray_autolrs.sinks.sink import Sink
from ray_autolrs.task import TrainingTask

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AutoLRSResult:
    """What a run leaves.

    Attributes:
        config: the settings that it ran with, resolved.
        schedule: the learning-rate schedule that it found and trained with.
        checkpoint: the trained model: ``model.pt`` is the module's ``state_dict``.
        path: the run's folder.
        events: the records of its log, in order.
    """

    config: AutoLRSConfig
    schedule: LRSchedule
    checkpoint: Checkpoint
    path: str
    events: tuple[Record, ...]

    @property
    def history(self) -> pd.DataFrame:
        """One row for each probe and each evaluation; see :mod:`ray_autolrs.report.history`."""
        return history_frame(self.events)

    @property
    def costs(self) -> Costs:
        """Applied steps and probe steps, and their seconds."""
        return count_costs(self.events)

    @property
    def metrics(self) -> dict[str, float]:
        """The saved model's validation: ``"loss"`` and the task's metrics over the whole set."""
        by_step: dict[int, dict[str, float]] = {}
        for event in self.events:
            if event["kind"] == "apply" and not event["diverged"]:
                for step, name, value in event["evaluations"]:
                    by_step.setdefault(step, {})[name] = value
        if not self.config.validation.keep_best:
            return by_step[max(by_step)]
        return min(by_step.values(), key=lambda means: means["loss"])


class AutoLRSTrainer:
    """Trains a task with data parallelism on Ray, and finds its LR schedule on the way.

    A run whose name and storage path were used before is continued from its last checkpoint,
    with every probe kept; one that had finished returns its result at once.

    Args:
        task: what to train.
        config: how to search.
        scaling_config: the workers, as in Ray Train; None is one worker on the CPU, and
            ``num_workers=0`` trains in this process, without Ray.
        run_config: name and storage of the run, as in Ray Train; None makes a name.
        sinks: told what happens while it goes on, besides the log and the progress bar.

    Raises:
        ValueError: a setting of the task or of the lanes is refused, the workers do not divide
            the global batch, their number is elastic, or the task cannot be pickled.
        TypeError: an argument is of another class.
    """

    def __init__(
        self,
        task: TrainingTask,
        config: AutoLRSConfig,
        *,
        scaling_config: ScalingConfig | None = None,
        run_config: RunConfig | None = None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        _check_type("task", task, TrainingTask)
        _check_type("config", config, AutoLRSConfig)
        self.task = task
        self.config = config
        self.scaling_config = scaling_config or ScalingConfig()
        self.run_config = _with_absolute_path(run_config or RunConfig())
        self.sinks = tuple(sinks)
        self._finish_requested = threading.Event()
        self._num_workers = check_workers(self.scaling_config)
        check_lanes(config.lanes)
        task.check_settings()
        task.resolved_micro_batch_size(max(1, self._num_workers))
        check_picklable(task)

    def fit(self) -> AutoLRSResult:
        """Train to the end, and return what the run leaves.

        Raises:
            ValueError: the run's name was used with other settings, the cluster is too small,
                or a worker refused the task's data or loss.
            SearchFailedError: every LR tried in a stage diverged.
            ray.train.TrainingFailedError: workers were lost more often than
                ``run_config.failure_config`` allows.
        """
        folder = RunFolder(
            str(self.run_config.storage_path),
            str(self.run_config.name),
            self.run_config.storage_filesystem,
        )
        events = _read_events(folder)
        is_finished = _finished(events) is not None
        if self._num_workers > 0 and not is_finished:
            if not ray.is_initialized():
                ray.init()
            check_cluster(self.scaling_config)
        config = with_interval(self.config, self.task, folder, self.scaling_config)
        config = self._resolved(config, folder, events)
        if is_finished:
            logger.info("the run in %s had finished; returning its result", folder.path)
            return _result(config, folder)
        with finish_on_signal(self._finish_requested):
            checkpoint_path = self._train(config, folder)
        self._record_finish(folder, checkpoint_path)
        return _result(config, folder)

    def finish(self) -> None:
        """End a run without a known end (``total_steps=None``), from any thread.

        The stage that is being trained ends; a shape that falls then does so, and ``fit``
        returns. The signal SIGUSR1 to this process does the same.
        """
        self._finish_requested.set()

    def _train(self, config: AutoLRSConfig, folder: RunFolder) -> str:
        """Train in this process or on Ray; return the last checkpoint's path."""
        sinks = (LogSink(), ProgressBar(), *self.sinks)
        if self._num_workers == 0:
            return run_locally(self.task, config, folder, self._finish_requested, sinks)
        return run_on_ray(
            self.task,
            config,
            folder,
            self.scaling_config,
            self.run_config,
            self._finish_requested,
            sinks,
        )

    def _resolved(
        self, config: AutoLRSConfig, folder: RunFolder, events: list[Record]
    ) -> AutoLRSConfig:
        """Return the settings with every number filled in: by the run, if it has begun.

        A run has begun when its workers were ready: one that was refused may be mended.
        """
        batch = self.task.global_batch_size
        if any(event["kind"] == "ready" for event in events):
            try:
                return config.continued(folder.read_json(CONFIG_FILE), global_batch_size=batch)
            except ValueError as error:
                raise ValueError(f"{folder.path}: {error}") from error
        resolved = config.resolve(global_batch_size=batch)
        folder.write_json(CONFIG_FILE, resolved.to_json())
        return resolved

    def _record_finish(self, folder: RunFolder, checkpoint_path: str) -> None:
        log = EventLog(folder)
        costs = count_costs(log.records)
        record: dict[str, Any] = {
            "kind": "finished",
            "checkpoint": Path(checkpoint_path).name,
            "apply_steps": costs.apply_steps,
            "probe_steps": costs.probe_steps,
            "range_test_steps": range_test_steps(folder),
            "num_workers": self._num_workers,
            "time": time.time(),
        }
        log.append([record])


def _result(config: AutoLRSConfig, folder: RunFolder) -> AutoLRSResult:
    events = _read_events(folder)
    finished = _finished(events)
    assert finished is not None, folder.path
    return AutoLRSResult(
        config=config,
        schedule=LRSchedule.from_dict(folder.read_json(SCHEDULE_FILE)),
        checkpoint=Checkpoint(f"{folder.path}/{finished['checkpoint']}", folder.filesystem),
        path=folder.path,
        events=tuple(events),
    )


def _with_absolute_path(run_config: RunConfig) -> RunConfig:
    """Return the run's settings with a storage path that holds on every worker."""
    storage_path = str(run_config.storage_path)
    if run_config.storage_filesystem is None and "://" not in storage_path:
        # Ray Train's workers run in folders of their own.
        storage_path = str(Path(storage_path).expanduser().absolute())
    return dataclasses.replace(run_config, storage_path=storage_path)


def _read_events(folder: RunFolder) -> list[Record]:
    return parse_events(folder.read(EVENTS_FILE) or b"")


def _finished(events: list[Record]) -> Record | None:
    return next((event for event in events if event["kind"] == "finished"), None)


def _check_type(name: str, value: object, wanted: type) -> None:
    if not isinstance(value, wanted):
        got = value.__name__ if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{name} is {got}; it must be an instance of {wanted.__name__}")
