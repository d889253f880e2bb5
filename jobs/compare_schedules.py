"""Compare AutoLRS with the schedules people tune by hand, on any TrainingTask.

    python jobs/compare_schedules.py --task package.module:MyTask --output runs/comparison

Ray Tune trains each baseline with each learning rate (LR) and seed, one CPU a run, and AutoLRS
beside them with its search's steps charged. A baseline's LR is chosen by validation loss; a task
with a method test_dataset() also gets test losses. Into --output go comparison.csv, .md and .png,
and records.jsonl with every run. A task's class must be buildable without arguments.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import ray

from ray_autolrs import TrainingTask
from ray_autolrs.comparison.baselines import CLOSE_RELATIVES
from ray_autolrs.comparison.runs import METHODS, plan_trials, run_on_tune
from ray_autolrs.comparison.table import write_comparison

GRID_POINTS = 5
"""LRs of a baseline where none are given, spread evenly over the interval's logarithm."""

ONLY_IF_NAMED = ("prodigy", *CLOSE_RELATIVES)
"""Prodigy needs a package that is not among the requirements."""


def load_task(name: str) -> TrainingTask:
    """Build the task that "module:Class" names."""
    module_name, colon, class_name = name.partition(":")
    if not (module_name and colon and class_name):
        raise ValueError(f"--task {name!r} must be module:Class, for example quickstart:Digits")
    # As with `python -m`: a person's own module lies where they stand.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    task_class = getattr(importlib.import_module(module_name), class_name, None)
    if not (isinstance(task_class, type) and issubclass(task_class, TrainingTask)):
        raise ValueError(f"--task {name!r}: {class_name} in {module_name} is not a TrainingTask")
    return task_class()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="quickstart:Digits", help="module:Class")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=[name for name in METHODS if name not in ONLY_IF_NAMED],
        metavar="METHOD",
        help=f"of {', '.join(METHODS)}; prodigy needs the package prodigyopt (default: all but "
        f"{', '.join(ONLY_IF_NAMED)})",
    )
    parser.add_argument("--lr-min", type=float, default=1e-3, help="AutoLRS's interval")
    parser.add_argument("--lr-max", type=float, default=1.0)
    parser.add_argument(
        "--lrs",
        type=float,
        nargs="+",
        help=f"baselines' grid (default: {GRID_POINTS} of the interval)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1150, help="applied steps of a run")
    parser.add_argument("--output", type=Path, default=Path("runs/comparison"))
    parser.add_argument(
        "--address",
        help="Ray to use: 'local' starts one; by default, one that runs here, else a new one",
    )
    parser.add_argument("--max-concurrent", type=int, help="runs at a time (default: all CPUs)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    task = load_task(arguments.task)
    interval = (arguments.lr_min, arguments.lr_max)
    lrs = arguments.lrs or np.geomspace(*interval, GRID_POINTS).tolist()
    trials = plan_trials(
        arguments.methods,
        lrs=lrs,
        lr_interval=interval,
        seeds=arguments.seeds,
        steps=arguments.steps,
    )
    print(f"{len(trials)} runs of {arguments.steps} steps; baselines' LRs: {lrs}", flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    environment = {
        # Cores are shared out by run: a run's own threads would only wait for each other.
        "OMP_NUM_THREADS": "1",
        # Where the task's module was found, as the runs look for it, too.
        "PYTHONPATH": os.pathsep.join(
            filter(
                None,
                [str(Path.cwd()), str(Path(__file__).parent), os.environ.get("PYTHONPATH")],
            )
        ),
    }
    ray.init(
        address=arguments.address,
        runtime_env={"env_vars": environment},
        logging_level=logging.WARNING,
        log_to_driver=False,
    )
    try:
        with tempfile.TemporaryDirectory() as storage:
            records = run_on_tune(
                task,
                trials,
                storage=Path(storage),
                max_concurrent=arguments.max_concurrent,
            )
    finally:
        ray.shutdown()
    lines = "".join(f"{json.dumps(record.to_dict())}\n" for record in records)
    (arguments.output / "records.jsonl").write_text(lines, encoding="utf-8")
    print(write_comparison(records, arguments.output))
    print(f"files: {arguments.output}")


if __name__ == "__main__":
    main()
