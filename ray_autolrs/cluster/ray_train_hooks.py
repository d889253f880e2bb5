"""What Ray Train is told of a run, and which of its settings a run follows."""

from __future__ import annotations

from ray.train import RunConfig
from ray.train.torch import TorchConfig

from ray_autolrs.algorithm.stages.messages import ApplyDone, Event
from ray_autolrs.cluster.checks import worker_environment


def metrics_of(event: Event | None) -> dict[str, float]:
    """Return what Ray Train is told at a stage's end, besides the step.

    Args:
        event: what was done last.

    Returns:
        ``"loss"`` and the task's metrics of the validation at the stage's end, and its last
        ``"training_loss"``; nothing before the first stage has ended. A
        ``UserCallback.after_report`` sees them.
    """
    if not isinstance(event, ApplyDone) or event.diverged:
        return {}
    last = max((step for step, _, _ in event.evaluations), default=None)
    means = {name: value for step, name, value in event.evaluations if step == last}
    return {**means, "training_loss": event.training_losses[-1], "stage": float(event.stage)}


def check_in_process(run_config: RunConfig, torch_config: TorchConfig | None) -> None:
    """Refuse what only Ray Train can follow, for a run in this process (``num_workers=0``).

    Raises:
        ValueError: a setting would have no effect; the message names it and what to do instead.
    """
    failure = run_config.failure_config
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
        "torch_config": (torch_config is not None, "a single process has no process group"),
    }
    for name, (is_set, remedy) in refused.items():
        if is_set:
            raise ValueError(
                f"{name} is followed by Ray Train alone, and num_workers=0 trains without it: "
                f"{remedy}; or train with at least one worker"
            )
