"""What a method of the bench is, and ours: with its variants, and at an LR that is given.

A method's version is a hash of its settings and of a constant, which is raised by hand when its
code changes what it does: runs of another version are not taken for its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from ray.train import RunConfig, ScalingConfig

from bench.tasks.kinds import BenchTask
from bench.tasks.suite import SuiteTask
from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, LRSchedule
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from ray_autolrs.comparison.plain_training import EVALUATIONS, train_plain
from ray_autolrs.comparison.record import RunRecord
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage

OURS_VERSION = 5
"""Of our method's code: raise it when the search, the average or the warm-up does otherwise."""

LRs = tuple[float | None, ...]

Trained = tuple[RunRecord, float | None]
"""A run's record, and the LR that the method found."""


class Method(ABC):
    """How a task is trained.

    Attributes:
        name: of the method.
        is_ours: whether it is ours, or an arm of ours, and no rival.
        cost: steps of a run over the applied ones, for the estimate of a pass.
    """

    name: str
    is_ours: bool = False
    cost: float = 1.0

    @property
    def version(self) -> str:
        """Hash of what the method does."""
        text = json.dumps(self.facts(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return the settings as JSON values."""

    @abstractmethod
    def lrs(self, task: SuiteTask) -> LRs:
        """Return the LRs to try, or (None,) where the method finds its own."""

    @abstractmethod
    def train(
        self, task: BenchTask, suite_task: SuiteTask, *, lr: float | None, steps: int, seed: int
    ) -> Trained:
        """Make one run in this process."""


@dataclass(frozen=True)
class Ours(Method):
    """The default, with settings put in by path."""

    name: str
    settings: tuple[tuple[str, Any], ...] = ()
    is_ours = True
    cost = 1.25

    def config(self, *, steps: int, lr: tuple[float, float], seed: int) -> AutoLRSConfig:
        """Return the settings of a run."""
        config = AutoLRSConfig(total_steps=steps, lr=lr, seed=seed)
        every = ("validation.every_steps", max(1, steps // EVALUATIONS))
        return config.replaced(*self.settings, every)

    def facts(self) -> dict[str, Any]:
        config = self.config(steps=2300, lr=(1e-3, 1.0), seed=0).resolve(global_batch_size=32)
        return {
            "version": OURS_VERSION,
            "settings": config.to_json()["settings"],
            # β resolved for a batch of 32 does not tell a rule from a number.
            "own": [[path, repr(value)] for path, value in self.settings],
        }

    def lrs(self, task: SuiteTask) -> LRs:
        return (None,)

    def train(
        self, task: BenchTask, suite_task: SuiteTask, *, lr: float | None, steps: int, seed: int
    ) -> Trained:
        started_s = time.perf_counter()
        config = self.config(steps=steps, lr=suite_task.interval, seed=seed)
        base: dict[str, Any] = {"method": self.name, "lr": None, "seed": seed, "steps": steps}
        with tempfile.TemporaryDirectory() as folder:
            trainer = AutoLRSTrainer(
                task,
                config,
                scaling_config=ScalingConfig(num_workers=0),
                run_config=RunConfig(name="run", storage_path=folder),
            )
            try:
                result = trainer.fit()
            except SearchFailedError:  # every LR diverged
                seconds = time.perf_counter() - started_s
                return RunRecord(**base, val_loss=math.inf, diverged=True, seconds=seconds), None
        history = result.history
        rows = history[history["kind"] == "evaluation"]
        # A stage that diverged is applied again: the later evaluation of a step is the model's.
        curve = dict(zip(rows["step"].tolist(), rows["loss"].tolist(), strict=True))
        val_loss = result.metrics["loss"]
        diverged = not math.isfinite(val_loss)
        record = RunRecord(
            **base,
            curve=tuple((int(step), loss) for step, loss in sorted(curve.items())),
            val_loss=math.inf if diverged else val_loss,
            diverged=diverged,
            search_steps=result.costs.search_fraction * result.costs.apply_steps,
            seconds=time.perf_counter() - started_s,
        )
        return record, result.schedule.segments[-1].peak_lr


@dataclass(frozen=True)
class FixedLR(Method):
    """The default's own training at a given LR: no search, the same average and warm-up."""

    name: str
    momentum: float | None = None
    is_ours = True

    def facts(self) -> dict[str, Any]:
        return {**Ours("autolrs").facts(), "momentum": self.momentum, "fixed_lr": True}

    def lrs(self, task: SuiteTask) -> LRs:
        return octaves(task.interval)

    def train(
        self, task: BenchTask, suite_task: SuiteTask, *, lr: float | None, steps: int, seed: int
    ) -> Trained:
        assert lr is not None
        average = ScheduleFreeAverage(momentum=self.momentum)
        config = AutoLRSConfig(total_steps=steps, lr=lr, seed=seed, averaging=average)
        config = config.resolve(global_batch_size=task.global_batch_size)
        warmup = config.warmup
        assert warmup.steps is not None
        assert warmup.power is not None
        shape = WarmupStableDecay(0, steps, warmup.steps, 0, warmup.power)
        schedule = LRSchedule((Segment(0, steps - 1, lr, shape),))
        record = train_plain(
            task,
            schedule,
            method=self.name,
            lr=lr,
            steps=steps,
            seed=seed,
            averaging=config.averaging,
        )
        return record, None


def octaves(interval: tuple[float, float]) -> tuple[float, ...]:
    """Return the powers of two in an interval, widened to the nearest on each side.

    >>> octaves((0.2, 1.1))
    (0.25, 0.5, 1.0)
    """
    first, last = (round(math.log2(end)) for end in interval)
    return tuple(2.0**power for power in range(first, last + 1))
