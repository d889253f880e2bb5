"""``ray-autolrs train``."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ray_autolrs.commands.command import Command, as_usage_errors
from ray_autolrs.commands.named import load_task
from ray_autolrs.commands.presets import Preset
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.sinks.sink import Sink


@dataclass(frozen=True)
class RunOptions:
    """Where a run trains, and where it leaves its files."""

    name: str | None = None
    """The run's folder below --storage-path; one that was used before is continued. By default
    the task's name."""

    storage_path: str = "runs"
    """Folder or URI of all runs."""

    num_workers: int = 1
    """Ray training workers; 0 trains in this process, without Ray."""

    use_gpu: bool = False
    """Give each worker a GPU."""

    max_failures: int = 0
    """How often lost workers are started again; -1 without an end."""

    sink: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Services to send the curves to, each an extra of its name: TensorBoard's files go into the
    run's folder, the others take their settings from their environment variables."""

    address: str | None = None
    """Ray to use: 'local' starts one; by default one that runs here, else a new one."""


@dataclass(frozen=True)
class Train(Command):
    """Train a task, and find its LR schedule on the way.

    For example:
        ray-autolrs train quickstart:Digits --total-steps 1000
        ray-autolrs train quickstart:Digits --total-steps 1000 --num-workers 0 --lr 0.01
        ray-autolrs train quickstart:Digits --total-steps 1000 --search.probe-steps 50
        ray-autolrs train quickstart:Digits --total-steps 1000 --set shape=WSD averaging=EMA
        ray-autolrs train quickstart:Digits --total-steps 4000 --method paper --lr 0.001 0.1
    """

    task: tyro.conf.Positional[str]
    """MODULE:TASK, a subclass of TrainingTask or an instance; the module may lie here."""

    config: Annotated[
        tyro.conf.SuppressFixed[tyro.conf.AvoidSubcommands[AutoLRSConfig]],
        tyro.conf.arg(name=""),
    ]

    preset: Annotated[Preset, tyro.conf.arg(name="")] = field(default=Preset())

    run_options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default=RunOptions())

    def run(self) -> None:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from ray_autolrs.cluster.trainer import AutoLRSTrainer
        from ray_autolrs.report.stage_table import stage_table

        options = self.run_options
        with as_usage_errors():
            task = load_task(self.task)
            name = options.name or type(task).__name__.lower()
            trainer = AutoLRSTrainer(
                task,
                self.config,
                scaling_config=ScalingConfig(
                    num_workers=options.num_workers, use_gpu=options.use_gpu
                ),
                run_config=RunConfig(
                    name=name,
                    storage_path=options.storage_path,
                    failure_config=FailureConfig(max_failures=options.max_failures),
                ),
                sinks=[_sink(service, name, options) for service in options.sink],
            )
        if options.num_workers > 0:
            # The workers' own logs stay in Ray's log folder; their errors come back.
            ray.init(address=options.address, logging_level=logging.WARNING, log_to_driver=False)
        result = trainer.fit()
        print(f"\n{stage_table(result.events)}\n")
        values = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
        print(f"validation: {values}")
        print(f"files: {result.path}")


def _sink(service: str, name: str, options: RunOptions) -> Sink:
    """Return the sink of a service for a run.

    Raises:
        ImportError: its extra is not installed.
        ValueError: TensorBoard's files cannot lie in a folder that is no local one.
    """
    match service:
        case "tensorboard":
            from ray_autolrs.sinks.tensorboard import TensorBoardSink

            if "://" in options.storage_path:
                raise ValueError(
                    f"--sink tensorboard writes local files, and --storage-path "
                    f"{options.storage_path} is none; give a local path, or another sink"
                )
            return TensorBoardSink(Path(options.storage_path) / name / "tensorboard")
        case "wandb":
            from ray_autolrs.sinks.weights_and_biases import WandbSink

            return WandbSink("ray_autolrs", name=name)
        case _:
            from ray_autolrs.sinks.ml_flow import MLflowSink

            return MLflowSink("ray_autolrs", run_name=name)
