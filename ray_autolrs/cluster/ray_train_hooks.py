"""What Ray Train is told of a run, and which of its settings a run follows."""

from __future__ import annotations

import sys

from ray.train import RunConfig
from ray.train.torch import TorchConfig

from ray_autolrs.algorithm.stages.messages import ApplyDone, Event
from ray_autolrs.cluster.checks import worker_environment


def metrics_of(event: Event | None) -> dict[str, float]:
    """Return what a checkpoint is reported to Ray Train with, besides its step.

    Args:
        event: what was done last before the checkpoint.

    Returns:
        ``"loss"`` and the task's metrics of the validation at the stage's end, and its last
        ``"training_loss"``; nothing before the first stage has ended. ``CheckpointConfig`` may
        score by them, and a ``UserCallback.after_report`` sees them.
    """
    if not isinstance(event, ApplyDone) or event.diverged:
        return {}
    last = max((step for step, _, _ in event.evaluations), default=None)
    means = {name: value for step, name, value in event.evaluations if step == last}
    return {**means, "training_loss": event.training_losses[-1], "stage": float(event.stage)}


def worst_score(run_config: RunConfig) -> dict[str, float]:
    """Return the score of a checkpoint without validation, by name; nothing without a score.

    It is the worst finite one: Ray Train takes a missing score for the best where the lowest is
    kept, and its state is JSON.
    """
    kept = run_config.checkpoint_config
    if kept is None or kept.checkpoint_score_attribute is None:
        return {}
    worst = sys.float_info.max
    return {
        kept.checkpoint_score_attribute: worst if kept.checkpoint_score_order == "min" else -worst
    }


def check_in_process(run_config: RunConfig, torch_config: TorchConfig | None) -> None:
    """Refuse what only Ray Train can follow, for a run in this process (``num_workers=0``).

    Raises:
        ValueError: a setting would have no effect; the message names it and what to do instead.
    """
    failure, kept = run_config.failure_config, run_config.checkpoint_config
    score = kept.checkpoint_score_attribute if kept is not None else None
    refused = {
        "RunConfig.callbacks": (bool(run_config.callbacks), "give sinks to the trainer"),
        f"FailureConfig(max_failures={failure.max_failures if failure else 0})": (
            failure is not None and failure.max_failures != 0,
            "an error ends the run, and fit() by the same name goes on with it",
        ),
        "RunConfig.worker_runtime_env": (
            bool(worker_environment(run_config)),
            "set os.environ before fit()",
        ),
        f"CheckpointConfig(checkpoint_score_attribute={score!r})": (
            score is not None,
            "the newest checkpoints are kept, and Validation(keep_best=True) keeps the best model",
        ),
        "torch_config": (torch_config is not None, "a single process has no process group"),
    }
    for name, (is_set, remedy) in refused.items():
        if is_set:
            raise ValueError(
                f"{name} is followed by Ray Train alone, and num_workers=0 trains without it: "
                f"{remedy}; or train with at least one worker"
            )
