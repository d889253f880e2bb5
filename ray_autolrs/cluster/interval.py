"""The LR range test of a run that was given no search interval, once for the run's folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import ray
import torch
from ray.train import ScalingConfig

from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_line import answer
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.lr_sweep import RangeTestResult, lr_range_test

logger = logging.getLogger(__name__)

RANGE_TEST_FILE = "range_test.json"
"""In the run's folder: the interval and the curve it was read from."""

TEST_TIMEOUT_S = 6 * 3600.0
"""Longest wait for a range test in the cluster, a node to run it on included."""


def with_interval(
    config: AutoLRSConfig,
    task: TrainingTask,
    folder: RunFolder,
    scaling_config: ScalingConfig,
    runtime_env: Mapping[str, Any] | None = None,
) -> AutoLRSConfig:
    """Return the settings with the interval that a range test finds, if they have no LR.

    A run that is continued takes the interval that it was started with.

    Args:
        config: the settings.
        task: what is trained.
        folder: the run's.
        scaling_config: where the test runs: in this process with 0 workers, otherwise in a Ray
            task that holds what one worker will hold.
        runtime_env: of the workers, and of that task.

    Raises:
        ValueError: the loss of the task is not finite; see ``lr_range_test``.
    """
    if config.lr is not None:
        return config
    found = folder.read_json(RANGE_TEST_FILE)
    if found is None:
        result = _run(task, config.seed, scaling_config, dict(runtime_env or {}))
        found = dataclasses.asdict(result)
        folder.write_json(RANGE_TEST_FILE, found)
        logger.info(
            "LR range test: search between %.3g and %.3g, after %d steps",
            result.lr_min,
            result.lr_max,
            result.spent_steps,
        )
    try:
        return dataclasses.replace(config, lr=(found["lr_min"], found["lr_max"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder.path}/{RANGE_TEST_FILE} holds no interval ({error}); use another name, or "
            "delete it before the run has begun"
        ) from error


def range_test_steps(folder: RunFolder) -> int:
    """Return what the run's range test cost, in optimizer steps; 0 if there was none."""
    found = folder.read_json(RANGE_TEST_FILE)
    return 0 if found is None else int(found["spent_steps"])


def _run(
    task: TrainingTask, seed: int, scaling_config: ScalingConfig, runtime_env: dict[str, Any]
) -> RangeTestResult:
    workers = scaling_config.num_workers
    assert isinstance(workers, int)

    def test() -> RangeTestResult:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return lr_range_test(task, seed=seed, device=device, num_workers=max(1, workers))

    if workers == 0:
        return test()
    total: dict[str, Any] = dict(scaling_config.total_resources)
    each = {name: amount / workers for name, amount in total.items()}
    others = {name: amount for name, amount in each.items() if name not in ("CPU", "GPU")}
    remote = ray.remote(
        num_cpus=each.get("CPU", 0),
        num_gpus=each.get("GPU", 0),
        resources=others,
        max_calls=1,
        runtime_env=runtime_env,
    )(test)
    try:
        result: RangeTestResult = answer(
            remote.remote(), f"the range test, which needs a node with {each}", TEST_TIMEOUT_S
        )
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise error.cause from error
        raise
    return result
