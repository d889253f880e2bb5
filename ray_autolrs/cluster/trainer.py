"""The trainer: what a user calls."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig

from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.cluster.checkpoints import newest_checkpoint
from ray_autolrs.cluster.checks import (
    check_cluster,
    check_picklable,
    check_workers,
    worker_environment,
)
from ray_autolrs.cluster.conductor import run_on_ray
from ray_autolrs.cluster.finishing import finish_on_signal
from ray_autolrs.cluster.interval import range_test_steps, with_interval
from ray_autolrs.cluster.lanes.choice import check_lanes
from ray_autolrs.cluster.live_file import LiveFile
from ray_autolrs.cluster.local_run import run_locally
from ray_autolrs.cluster.ray_train_hooks import check_in_process
from ray_autolrs.cluster.run_folder import CONFIG_FILE, EventLog, RunFolder
from ray_autolrs.cluster.run_lease import RunLease
from ray_autolrs.cluster.run_report import report_at_end
from ray_autolrs.cluster.run_result import AutoLRSResult, read_result
from ray_autolrs.cluster.used_folder import (
    finished_record,
    has_begun,
    read_used,
    schedule_of,
)
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.report.costs import count_costs
from ray_autolrs.sinks.log import LogSink
from ray_autolrs.sinks.progress_bar import ProgressBar
from ray_autolrs.sinks.sink import Sink
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.random_streams import random_states_kept

logger = logging.getLogger(__name__)


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
        torch_config: of the workers' process group, as in Ray Train.

    Raises:
        ValueError: a setting of the task or of the lanes is refused, the workers do not divide
            the global batch, their number is elastic, the task cannot be pickled, or a setting
            that only Ray Train can follow is given with ``num_workers=0``.
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
        torch_config: TorchConfig | None = None,
    ) -> None:
        _check_type("task", task, TrainingTask)
        _check_type("config", config, AutoLRSConfig)
        self.task = task
        self.config = config
        self.scaling_config = scaling_config or ScalingConfig()
        self.run_config = _with_absolute_path(run_config or RunConfig())
        self.sinks = tuple(sinks)
        self.torch_config = torch_config
        self._finish_requested = threading.Event()
        self._num_workers = check_workers(self.scaling_config)
        if self._num_workers == 0:
            check_in_process(self.run_config, torch_config)
        check_lanes(config.lanes)
        task.check_settings()
        task.resolved_micro_batch_size(max(1, self._num_workers))
        check_picklable(task)

    def fit(self) -> AutoLRSResult:
        """Train to the end, and return what the run leaves.

        Random states, signal handlers and environment variables are left as they were.

        Raises:
            ValueError: the run's name was used with other settings, or is being trained by
                another process, or is that of a folder that no run can go on in; the cluster is
                too small; or a worker refused the task's data or loss.
            SearchFailedError: every LR tried in a stage diverged.
            ray.train.TrainingFailedError: workers were lost more often than
                ``run_config.failure_config`` allows.
        """
        with random_states_kept(with_cuda=self._num_workers == 0):
            return self._fit()

    def finish(self) -> None:
        """End a run without a known end (``total_steps=None``), from any thread.

        The stage that is being trained ends; a shape that falls then does so, and ``fit``
        returns. The signal SIGUSR1 to this process does the same.
        """
        self._finish_requested.set()

    def _fit(self) -> AutoLRSResult:
        folder = RunFolder(
            str(self.run_config.storage_path),
            str(self.run_config.name),
            self.run_config.storage_filesystem,
        )
        if finished_record(read_used(folder, self.config)) is None:
            with RunLease(folder) as lease:
                # Another process may have trained it to its end just before.
                events = read_used(folder, self.config)
                if finished_record(events) is None:
                    try:
                        self._train(folder, events, lease.owner)
                    finally:
                        report_at_end(folder)
                    return self._result(folder)
        logger.info("the run in %s had finished; returning its result", folder.path)
        return self._result(folder)

    def _train(self, folder: RunFolder, events: list[Record], owner: str) -> None:
        """Train in this process or on Ray, from where the run is to its end."""
        if self._num_workers > 0:
            if not ray.is_initialized():
                ray.init()
            check_cluster(self.scaling_config)
        config = self._resolved(folder, events)
        sinks = (LogSink(), ProgressBar(), LiveFile(folder), *self.sinks)
        requested = self._finish_requested
        with finish_on_signal(requested):
            if self._num_workers == 0:
                run_locally(self.task, config, folder, self.run_config, requested, sinks, owner)
            else:
                run_on_ray(
                    self.task,
                    config,
                    folder,
                    self.scaling_config,
                    self.run_config,
                    requested,
                    sinks,
                    owner,
                    self.torch_config,
                )
        self._record_finish(EventLog(folder, owner), folder)

    def _resolved(self, folder: RunFolder, events: list[Record]) -> AutoLRSConfig:
        """Return the settings with every number filled in: by the run, if it has begun."""
        config = with_interval(
            self.config,
            self.task,
            folder,
            self.scaling_config,
            worker_environment(self.run_config),
        )
        batch = self.task.global_batch_size
        if has_begun(events):
            try:
                return config.continued(folder.read_json(CONFIG_FILE), global_batch_size=batch)
            except ValueError as error:
                raise ValueError(f"{folder.path}: {error}") from error
        resolved = config.resolve(global_batch_size=batch)
        folder.write_json(CONFIG_FILE, resolved.to_json())
        return resolved

    def _result(self, folder: RunFolder) -> AutoLRSResult:
        events = read_used(folder, self.config)
        config = self._resolved(folder, events)
        return read_result(folder, events, schedule_of(folder, config, events), config)

    def _record_finish(self, log: EventLog, folder: RunFolder) -> None:
        costs = count_costs(log.records)
        record: dict[str, Any] = {
            "kind": "finished",
            "checkpoint": newest_checkpoint(folder),
            "apply_steps": costs.apply_steps,
            "probe_steps": costs.probe_steps,
            "range_test_steps": range_test_steps(folder),
            "num_workers": self._num_workers,
            "time": time.time(),
        }
        log.append([record])


def _with_absolute_path(run_config: RunConfig) -> RunConfig:
    """Return the run's settings with a storage path that holds on every worker."""
    storage_path = str(run_config.storage_path)
    if run_config.storage_filesystem is None and "://" not in storage_path:
        # Ray Train's workers run in folders of their own.
        storage_path = str(Path(storage_path).expanduser().absolute())
    return dataclasses.replace(run_config, storage_path=storage_path)


def _check_type(name: str, value: object, wanted: type) -> None:
    if not isinstance(value, wanted):
        got = value.__name__ if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{name} is {got}; it must be an instance of {wanted.__name__}")
