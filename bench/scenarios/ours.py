"""Our own methods in a scenario: the default, and the staged search."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ray.train import RunConfig, ScalingConfig

from bench.misled import Misled
from bench.scenarios.planned import EVALUATED, Scenario
from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, Bracket
from ray_autolrs.comparison.record import RunRecord

Interval = tuple[float, float]

OURS_VERSION = 2
"""To be raised when the code of our methods does otherwise."""


def _default(steps: int, lr: Interval, seed: int) -> AutoLRSConfig:
    return AutoLRSConfig(total_steps=steps, lr=lr, seed=seed)


def _staged(steps: int, lr: Interval, seed: int) -> AutoLRSConfig:
    return AutoLRSConfig.staged(steps, lr, seed=seed)


OURS: Mapping[str, Callable[[int, Interval, int], AutoLRSConfig]] = MappingProxyType(
    {"default": _default, "staged": _staged}
)
"""Settings by name, from (steps, interval, seed)."""


def train_ours(name: str, scenario: Scenario, task: str, *, steps: int, seed: int) -> RunRecord:
    """Make a run of one of our methods."""
    changing = scenario.task(task, steps)
    config = OURS[name](round(scenario.planned * steps), changing.interval, seed)
    if scenario.planned < 1:  # Whatever was planned for the shorter run stays.
        planned = config.resolve(global_batch_size=changing.global_batch_size)
        config = dataclasses.replace(
            config,
            total_steps=steps,
            search=planned.search,
            stages=planned.stages,
            warmup=planned.warmup,
        )
    if scenario.lr_factor is not None:
        search = config.search
        assert isinstance(search, Bracket), search
        fields = {one.name: getattr(search, one.name) for one in dataclasses.fields(Bracket)}
        config = dataclasses.replace(config, search=Misled(factor=scenario.lr_factor, **fields))
    config = config.replaced(
        ("validation.every_steps", steps // EVALUATED), ("validation.keep_best", False)
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = AutoLRSTrainer(
            changing,
            config,
            scaling_config=ScalingConfig(num_workers=0),
            run_config=RunConfig(name="run", storage_path=folder),
        )
        result = trainer.fit()
    rows = result.history[result.history["kind"] == "evaluation"]
    curve = dict(zip(rows["step"].tolist(), rows["loss"].tolist(), strict=True))
    return RunRecord(
        method=name,
        lr=None,
        seed=seed,
        steps=steps,
        curve=tuple((int(step), loss) for step, loss in sorted(curve.items())),
        val_loss=result.metrics["loss"],
        search_steps=result.costs.search_fraction * result.costs.apply_steps,
    )


def version_of(name: str) -> str:
    """Return what a run of ours depends on, as a text."""
    config = OURS[name](1000, (1e-3, 1.0), 0).resolve(global_batch_size=64)
    settings: Any = config.to_json()["settings"]
    return f"{OURS_VERSION} {settings!r}"
