"""What the jobs share: their arguments, the cost told before a run, the run, and its table."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import ray
import torch
from ray.train import RunConfig, ScalingConfig
from torch import nn

from ray_autolrs.cluster.checkpoint_files import MODEL_FILE
from ray_autolrs.cluster.checks import check_cluster
from ray_autolrs.cluster.fixed_lr import fit_fixed
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_line import answer
from ray_autolrs.cluster.trainer import AutoLRSTrainer
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.extras import NeedsExtra
from ray_autolrs.report.stage_table import stage_table
from ray_autolrs.settings_tree import parse_setting
from ray_autolrs.task import Precision, TrainingTask
from ray_autolrs.training.step_timing import StepTiming, time_steps

if TYPE_CHECKING:
    from tokenizers import Tokenizer

JOB_FILE = "job.json"
"""In the run's folder: the arguments that make it another run if they change."""

TOKENIZER_FILE = "tokenizer.json"
"""In the run's folder: the tokenizer that the job has trained, if it has."""

FREE_ARGUMENTS = {"num_workers", "use_gpu", "storage_path", "name", "address", "loader_workers"}
"""Arguments that may change when a run is continued."""

MEASURE_TIMEOUT_S = 1800.0
"""Longest wait for a few steps to be timed, a node to do so included."""

Say = Callable[[str], None]
"""Where a job's text goes: ``print``."""

Test = Callable[[nn.Module, torch.device], Mapping[str, float]]
"""Measures a trained model on data that neither training nor search has seen."""


def add_common_arguments(parser: argparse.ArgumentParser, *, name: str) -> None:
    """Add the arguments that every job has.

    Args:
        parser: of the job.
        name: the run's name where none is given.
    """
    group = parser.add_argument_group("run")
    group.add_argument(
        "--num-workers",
        type=int,
        default=2,
        help="Ray training workers; 0 trains in this process, without Ray (default: 2)",
    )
    group.add_argument("--use-gpu", action="store_true", help="give each worker a GPU")
    group.add_argument(
        "--storage-path", default="runs", help="folder or URI of all runs (default: runs)"
    )
    group.add_argument(
        "--name",
        default=name,
        help=f"the run's folder below it; a name used before is continued (default: {name})",
    )
    group.add_argument("--seed", type=int, default=0, help="of search, batches and model")
    group.add_argument(
        "--address",
        help="Ray to use: 'local' starts one; by default, one that runs here, else a new one",
    )
    group = parser.add_argument_group("training")
    group.add_argument(
        "--precision", choices=get_args(Precision), help="by default the preset's own"
    )
    group.add_argument(
        "--loader-workers",
        type=int,
        help="processes that load data for each training worker; by default the preset's own",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="a setting of AutoLRSConfig instead of the preset's, for example total_steps=5000 or "
        "search.probe_steps=50; may be given again",
    )
    group.add_argument(
        "--fixed-lr",
        type=float,
        metavar="LR",
        help="no search: train in this process with this LR, after the same warm-up, to compare; "
        "leaves no files",
    )


def config_from(arguments: argparse.Namespace, preset: AutoLRSConfig) -> AutoLRSConfig:
    """Return a preset's settings with ``--seed`` and ``--set`` put in.

    Raises:
        ValueError: ``--set`` is not of the form PATH=VALUE, or there is no such setting, or it
            refuses the value.
    """
    settings = [("seed", arguments.seed), *map(parse_setting, arguments.set)]
    return preset.replaced(*settings)


def run_folder(arguments: argparse.Namespace) -> RunFolder:
    """Return the run's folder; it is made if it does not exist."""
    path = str(arguments.storage_path)
    if "://" not in path:
        path = str(Path(path).expanduser().absolute())
    return RunFolder(path, arguments.name)


def kept_tokenizer(arguments: argparse.Namespace, train: Callable[[], Tokenizer]) -> Tokenizer:
    """Return the tokenizer in the run's folder, or train one and keep it there.

    A run that is continued needs the very tokens that it began with.
    """
    if arguments.fixed_lr is not None:  # which leaves no files
        return train()
    folder = run_folder(arguments)
    found = folder.read(TOKENIZER_FILE)
    if found is not None:
        with NeedsExtra("examples"):
            from tokenizers import Tokenizer
        return Tokenizer.from_str(found.decode())
    tokenizer = train()
    folder.write(TOKENIZER_FILE, tokenizer.to_str().encode())
    return tokenizer


def run_job(
    task: TrainingTask,
    config: AutoLRSConfig,
    arguments: argparse.Namespace,
    *,
    say: Say,
    test: Test | None = None,
) -> dict[str, float]:
    """Tell what a run will cost, make it, and tell what came out.

    Args:
        task: what to train; ``--precision`` and ``--loader-workers`` are put into it.
        config: how to search.
        arguments: parsed, with at least those of :func:`add_common_arguments`.
        say: takes each piece of text.
        test: measures the trained model, or None.

    Returns:
        The last validation's means, and what ``test`` returned.

    Raises:
        ValueError: an argument, the task or its data is refused, or the run's name was used with
            other arguments.
    """
    # What libraries log for each step or request is not for this terminal.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for name in ("precision", "loader_workers"):
        if getattr(arguments, name) is not None:
            setattr(task, name, getattr(arguments, name))
    task.check_settings()
    if arguments.fixed_lr is not None:
        say(f"fixed LR {arguments.fixed_lr:g}: {config.total_steps} steps, no search")
        device = _device()
        module, metrics = fit_fixed(task, config, arguments.fixed_lr, device)
    else:
        scaling = ScalingConfig(num_workers=arguments.num_workers, use_gpu=arguments.use_gpu)
        trainer = AutoLRSTrainer(
            task,
            config,
            scaling_config=scaling,
            run_config=RunConfig(name=arguments.name, storage_path=arguments.storage_path),
        )
        _claim_folder(run_folder(arguments), arguments)
        if arguments.num_workers > 0:
            # The workers' own logs stay in Ray's log folder; their errors come back.
            ray.init(address=arguments.address, logging_level=logging.WARNING, log_to_driver=False)
            check_cluster(scaling)
        timing = _measured(task, config, scaling)
        say(cost_text(task, config, max(1, arguments.num_workers), timing))
        result = trainer.fit()
        say(f"\n{stage_table(result.events)}\n")
        metrics = result.metrics
        device = _device()
        module = task.build_model().to(device)
        with result.checkpoint.as_directory() as folder:
            state = torch.load(f"{folder}/{MODEL_FILE}", map_location=device)
        module.load_state_dict(state)
        say(f"files: {result.path}")
    say(f"validation: {_numbers(metrics)}")
    if test is not None:
        measured = dict(test(module, device))
        say(f"test: {_numbers(measured)}")
        metrics = metrics | measured
    return metrics


def cost_text(
    task: TrainingTask, config: AutoLRSConfig, num_workers: int, timing: StepTiming
) -> str:
    """Return, in words, what a run will cost.

    The time is that of the steps alone: evaluations, the search between probes, and what the
    workers exchange come on top.
    """
    if config.total_steps is None:
        raise ValueError("total_steps=None has no cost to tell; jobs need a number of steps")
    # Before a range test any interval will do.
    known = dataclasses.replace(config, lr=config.lr or (1e-3, 1.0))
    plan = known.resolve(global_batch_size=task.global_batch_size).plan()
    probed = plan.planned_probe_steps()
    hours = (config.total_steps + probed) / timing.steps_per_s / 3600
    amount = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    return (
        f"cost: {config.total_steps} steps applied and {f'about {probed}' if probed else 'some'} "
        f"probed in {len(plan.all_stages())} stages, {task.global_batch_size} samples a step on "
        f"{num_workers} worker(s)\n"
        f"speed: {timing.steps_per_s:.3g} batches/s measured on one worker's share of "
        f"{timing.steps} steps, {100 * timing.data_wait_fraction:.1f}% of it waiting for data; "
        f"the steps alone will take {amount}"
    )


def _measured(task: TrainingTask, config: AutoLRSConfig, scaling: ScalingConfig) -> StepTiming:
    """Time a few steps where the workers will train: in this process, or in a Ray task."""
    if scaling.num_workers == 0:
        return time_steps(task, seed=config.seed, num_workers=1, device=_device())
    workers = scaling.num_workers
    assert isinstance(workers, int)

    def measure() -> StepTiming:
        return time_steps(task, seed=config.seed, num_workers=workers, device=_device())

    # One call for each process: it leaves the GPU's memory when it ends.
    remote = ray.remote(num_cpus=1, num_gpus=1 if scaling.use_gpu else 0, max_calls=1)(measure)
    needs = "a CPU and a GPU" if scaling.use_gpu else "a CPU"
    who = f"the measurement of a step, which needs a node with {needs}"
    timing: StepTiming = answer(remote.remote(), who, MEASURE_TIMEOUT_S)
    return timing


def _claim_folder(folder: RunFolder, arguments: argparse.Namespace) -> None:
    """Write the arguments into a new run's folder, or refuse to continue with others."""
    wanted = {name: value for name, value in vars(arguments).items() if name not in FREE_ARGUMENTS}
    found = folder.read_json(JOB_FILE)
    if found is None:
        folder.write_json(JOB_FILE, wanted)
        return
    for name in sorted({*wanted, *found}):
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"the run in {folder.path} was started with {name}={found.get(name)!r}, not "
                f"{wanted.get(name)!r}; use the same arguments to continue it, or another --name"
            )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
