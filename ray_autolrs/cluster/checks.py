"""Checks that the driver makes before it starts anything."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import ray
from ray import cloudpickle
from ray.train import RunConfig, ScalingConfig

from ray_autolrs.checkpoint_settings import Checkpoints
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask

KEPT = 2
"""Checkpoints that stay where nobody says how many: one to go back to, should the newest be
damaged."""


def check_picklable(task: TrainingTask) -> None:
    """Refuse a task that cannot be sent to a worker.

    Raises:
        ValueError: the task cannot be pickled; the message names the attribute at fault where
            it can be told.
    """
    try:
        cloudpickle.dumps(task)  # type: ignore[no-untyped-call]
    except (TypeError, pickle.PicklingError, AttributeError, ValueError, RuntimeError) as error:
        culprits = [name for name, value in vars(task).items() if not _is_picklable(value)]
        at = f" because of its attribute {culprits[0]!r}" if culprits else ""
        raise ValueError(
            f"the task {type(task).__name__} cannot be pickled{at}: {error}. It is sent to the "
            "workers: build such objects inside its methods"
        ) from error


def check_workers(scaling_config: ScalingConfig) -> int:
    """Return the number of workers, 0 for training in this process.

    Raises:
        ValueError: the number is elastic, which would change the batches during a run.
    """
    num_workers = scaling_config.num_workers
    if not isinstance(num_workers, int):
        raise ValueError(
            f"ScalingConfig(num_workers={num_workers}) must be an integer: each worker's share of "
            "the global batch is fixed for a run"
        )
    return num_workers


def check_parallelism(task: TrainingTask, config: AutoLRSConfig, num_workers: int) -> None:
    """Refuse a sharded model where one worker would have to hold it all.

    Raises:
        ValueError: the run is to begin with an LR range test.
    """
    if task.parallelism == "fsdp2" and num_workers > 0 and config.lr is None:
        raise ValueError(
            f"{type(task).__name__}.parallelism='fsdp2' and lr=None: an LR range test builds the "
            "whole model on one worker; give lr, an interval or a guess"
        )


def checkpoints_to_keep(settings: Checkpoints, run_config: RunConfig) -> int:
    """Return how many checkpoints stay in the run's folder.

    Raises:
        ValueError: the settings and ``run_config`` say different numbers, or ``run_config``
            scores checkpoints.
    """
    asked = run_config.checkpoint_config
    kept = asked.num_to_keep if asked is not None else None
    if asked is not None and asked.checkpoint_score_attribute is not None:
        raise ValueError(
            f"CheckpointConfig(checkpoint_score_attribute={asked.checkpoint_score_attribute!r}) is "
            "not followed: the newest checkpoints stay and, with "
            "AutoLRSConfig(checkpoints=Checkpoints(best=True)), that of the lowest validation loss"
        )
    if None not in (kept, settings.keep) and kept != settings.keep:
        raise ValueError(
            f"Checkpoints.keep={settings.keep} and CheckpointConfig(num_to_keep={kept}) say "
            "different numbers; give one of them"
        )
    return settings.keep or kept or KEPT


def worker_environment(run_config: RunConfig) -> dict[str, Any]:
    """Return the runtime environment of the workers, and of all else that builds the task."""
    # Ray's annotations still tell of an older class that lacks it.
    return dict(getattr(run_config, "worker_runtime_env", None) or {})


def check_cluster(scaling_config: ScalingConfig) -> None:
    """Refuse a cluster that can never hold the workers; Ray is initialised.

    A cluster with an autoscaler counts with all the nodes that it may start.

    Raises:
        ValueError: resources are missing; the message says which and how many.
    """
    missing = missing_resources(scaling_config.total_resources, resource_limits())
    if missing:
        amounts = ", ".join(
            f"{name}: {needed:g} needed, {available:g} there"
            for name, (needed, available) in missing.items()
        )
        raise ValueError(
            f"the cluster is too small for num_workers={scaling_config.num_workers} ({amounts}); "
            "ask for fewer workers, set resources_per_worker, or add nodes"
        )


def missing_resources(
    needed: Mapping[str, float], available: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Return, for each resource that falls short, how much is needed and how much is there.

    >>> missing_resources({"CPU": 2, "GPU": 2}, {"CPU": 4.0, "GPU": 1.0})
    {'GPU': (2, 1.0)}
    """
    return {
        name: (amount, available.get(name, 0.0))
        for name, amount in needed.items()
        if amount > available.get(name, 0.0)
    }


def cluster_resources() -> dict[str, float]:
    """Return what the cluster holds now."""
    held = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return {name: float(amount) for name, amount in held.items()}


def resource_limits() -> dict[str, float]:
    """Return what the cluster holds, or what its autoscaler may bring it to."""
    resources = cluster_resources()
    # Ray has no public call for the autoscaler's limits; Ray Train reads them here too.
    limits = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    for name, amount in limits.items():
        resources[name] = max(resources.get(name, 0.0), float(amount))
    return resources


def _is_picklable(value: object) -> bool:
    try:
        cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
    except Exception:  # Any failure is what is asked for here.
        return False
    return True
