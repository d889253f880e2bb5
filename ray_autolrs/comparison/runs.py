"""AutoLRS beside baselines on one task: single runs, and many of them with Ray Tune."""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from ray import tune
from ray.train import RunConfig, ScalingConfig

from ray_autolrs.algorithm.field_checks import check, check_integer, check_positive
from ray_autolrs.algorithm.schedules.stage_plan import Stages
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from ray_autolrs.cluster.checkpoint_files import MODEL_FILE
from ray_autolrs.cluster.run_result import AutoLRSResult
from ray_autolrs.cluster.trainer import AutoLRSTrainer
from ray_autolrs.comparison.baselines import BASELINES, train_baseline
from ray_autolrs.comparison.plain_training import EVALUATIONS, loss_on_test_set
from ray_autolrs.comparison.record import RunRecord
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine

PAPER_FIRST_STAGE = 1 / 23
"""First stage of a short run of the paper's method, as a part of the run. The paper's own
numbers are for runs of about 100,000 steps. Ours: 100 steps of 2300."""

PAPER_SHORTEST_STAGE = 80
"""Steps of it at least: a probe takes a tenth of them, and a forecast needs 8 losses."""

Interval = tuple[float, float]
"""Lowest and highest LR."""


def _default(steps: int, lr: Interval, seed: int) -> AutoLRSConfig:
    return AutoLRSConfig(total_steps=steps, lr=lr, seed=seed)


def _paper(steps: int, lr: Interval, seed: int) -> AutoLRSConfig:
    first = max(PAPER_SHORTEST_STAGE, round(PAPER_FIRST_STAGE * steps))
    stages = Stages(first_steps=first, longest_steps=8 * first)
    return AutoLRSConfig.paper(steps, lr, seed=seed, stages=stages)


OURS: Mapping[str, Callable[[int, Interval, int], AutoLRSConfig]] = MappingProxyType(
    {"autolrs": _default, "autolrs_paper": _paper}
)
"""Settings of our own methods, by name: from (steps, interval, seed)."""

METHODS = (*OURS, *BASELINES)
"""Names of all methods."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One run to make.

    Attributes:
        method: one of :data:`METHODS`.
        seed: of model, batches and search.
        steps: applied optimizer steps.
        lr: a baseline's peak learning rate (LR).
        lr_interval: the LRs that one of our methods searches.

    Raises:
        ValueError: the method is unknown, lacks its LR or its interval, or a number is out of its
            range.
    """

    method: str
    seed: int
    steps: int
    lr: float | None = None
    lr_interval: Interval | None = None

    def __post_init__(self) -> None:
        check(self, "method", self.method in METHODS, f"must be one of {', '.join(METHODS)}")
        check_integer(self, "steps", minimum=1)
        if self.method in OURS:
            rule = f"must be an interval: method={self.method!r} searches one"
            check(self, "lr_interval", self.lr_interval is not None, rule)
        else:
            check_positive(self, "lr")


def plan_trials(
    methods: Sequence[str],
    *,
    lrs: Sequence[float],
    lr_interval: Interval,
    seeds: Sequence[int],
    steps: int,
) -> list[Trial]:
    """Return every run of a comparison: each baseline with each LR, all with each seed.

    >>> trials = plan_trials(["autolrs", "cosine", "prodigy"], lrs=[0.1, 1.0],
    ...                      lr_interval=(0.01, 1.0), seeds=[0], steps=10)
    >>> [(trial.method, trial.lr) for trial in trials]
    [('autolrs', None), ('cosine', 0.1), ('cosine', 1.0), ('prodigy', 1.0)]
    """
    trials: list[Trial] = []
    for method, seed in itertools.product(methods, seeds):
        if method in OURS:
            trials.append(Trial(method=method, seed=seed, steps=steps, lr_interval=lr_interval))
            continue
        fixed_lr = BASELINES[method].fixed_lr if method in BASELINES else None
        grid = lrs if fixed_lr is None else [fixed_lr]
        trials += [Trial(method=method, seed=seed, steps=steps, lr=lr) for lr in grid]
    return trials


def run_trial(task: TrainingTask, trial: Trial) -> RunRecord:
    """Make one run in this process, on the CPU.

    Raises:
        ValueError: the task or a setting is refused.
    """
    if trial.method in OURS:
        assert trial.lr_interval is not None
        config = OURS[trial.method](trial.steps, trial.lr_interval, trial.seed)
        return train_autolrs(task, config, method=trial.method)
    assert trial.lr is not None
    return train_baseline(trial.method, task, lr=trial.lr, steps=trial.steps, seed=trial.seed)


def train_autolrs(
    task: TrainingTask, config: AutoLRSConfig, *, method: str = "autolrs"
) -> RunRecord:
    """Train a task with AutoLRS in this process, and return its losses and costs.

    Args:
        task: what to train; its ``test_dataset()``, if it has one, gives the test loss.
        config: the settings; without ``validation.every_steps`` it evaluates about 20 times.
        method: for the record.

    Raises:
        ValueError: the task or a setting is refused.
    """
    steps = config.total_steps
    if steps is None:
        raise ValueError("total_steps=None: a comparison needs runs that end; give a number")
    if config.validation.every_steps is None:
        config = config.replaced(("validation.every_steps", max(1, steps // EVALUATIONS)))
    started_s = time.perf_counter()
    base: dict[str, Any] = {"method": method, "lr": None, "seed": config.seed, "steps": steps}
    with tempfile.TemporaryDirectory() as folder:
        trainer = AutoLRSTrainer(
            task,
            config,
            scaling_config=ScalingConfig(num_workers=0),
            run_config=RunConfig(name=method, storage_path=folder),
        )
        try:
            result = trainer.fit()
        except SearchFailedError:  # every LR diverged: a result, as a baseline's divergence is
            outcome: dict[str, Any] = {"val_loss": math.inf, "diverged": True}
        else:
            outcome = _outcome(task, result)
    return RunRecord(**base, **outcome, seconds=time.perf_counter() - started_s)


def _outcome(task: TrainingTask, result: AutoLRSResult) -> dict[str, Any]:
    val_loss = result.metrics["loss"]
    history = result.history
    evaluations = history[history["kind"] == "evaluation"]
    # A stage that diverged is applied again: the later evaluation of a step is the model's.
    curve = dict(zip(evaluations["step"].tolist(), evaluations["loss"].tolist(), strict=True))
    diverged = not math.isfinite(val_loss)
    return {
        "curve": tuple((int(step), loss) for step, loss in sorted(curve.items())),
        "val_loss": math.inf if diverged else val_loss,
        "test_loss": None if diverged else _test_loss(task, result),
        "diverged": diverged,
        "search_steps": result.costs.search_fraction * result.costs.apply_steps,
    }


def _test_loss(task: TrainingTask, result: AutoLRSResult) -> float | None:
    engine = Engine(task, Solo(), torch.device("cpu"), seed=result.config.seed)
    with result.checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / MODEL_FILE, map_location="cpu")
    engine.replica.module.load_state_dict(state)
    return loss_on_test_set(engine, result.schedule.total_steps)


def run_on_tune(
    task: TrainingTask,
    trials: Sequence[Trial],
    *,
    storage: Path,
    max_concurrent: int | None = None,
) -> list[RunRecord]:
    """Make runs with Ray Tune, one CPU each, and return their records in the trials' order.

    Args:
        task: what to train; pickled to the runs.
        trials: the runs.
        storage: folder for Tune's own files.
        max_concurrent: runs at a time; None takes as many as there are CPUs.

    Raises:
        RuntimeError: runs failed. A run that diverged has not failed.
    """

    def train(settings: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        record = run_trial(task, trials[settings["trial"]])
        tune.report({"trial": settings["trial"], "record": record.to_dict()})

    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={"trial": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=max_concurrent),
        run_config=tune.RunConfig(name="tune", storage_path=str(storage.absolute()), verbose=0),
    )
    results = tuner.fit()
    if results.errors:
        failures = f"{len(results.errors)} of {len(trials)} runs failed"
        raise RuntimeError(f"{failures}; the first: {results.errors[0]}") from results.errors[0]
    records: dict[int, RunRecord] = {}
    for place in range(len(results)):
        metrics = results[place].metrics or {}
        records[metrics["trial"]] = RunRecord.from_dict(metrics["record"])
    return [records[place] for place in range(len(trials))]
