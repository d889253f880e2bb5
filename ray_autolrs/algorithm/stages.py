"""How a run is cut into stages.

Symbols
    τ    steps of a stage: 1000 at first, doubled after each stage until τ_max
    τ′   steps of a probe, τ/10
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ray_autolrs.config import AutoLRSConfig

Objective = Literal["training", "validation"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: a range of applied steps that gets one LR.

    Attributes:
        number: 1 for the first stage.
        first_step: applied step that it starts at.
        steps: applied steps in it (τ).
        probe_steps: optimizer steps of each of its probes (τ′).
        objective: the loss that its probes are judged by.
    """

    number: int
    first_step: int
    steps: int
    probe_steps: int
    objective: Objective

    @property
    def last_step(self) -> int:
        """The last applied step in it."""
        return self.first_step + self.steps - 1


def next_stage(config: AutoLRSConfig, previous: Stage | None) -> Stage | None:
    """Return the stage that follows ``previous``, or None where the run ends.

    The objective is the training loss while τ grows, and the validation loss once a stage at
    τ_max has been applied (published code). A departure of ours: a rest shorter than the
    first stage is no stage of its own but lengthens the one before it, and the last stage is
    as long as what is left, so that a run has exactly ``total_steps`` applied steps.
    """
    if previous is None:
        number, first_step = 1, config.warmup_steps
    else:
        number, first_step = previous.number + 1, previous.last_step + 1
    left = config.total_steps - first_step
    if left == 0:
        return None
    assert left >= config.first_stage_steps, (config, previous)
    planned = _planned_steps(config, number)
    steps = left if left - planned < config.first_stage_steps else planned
    reached_max = number > 1 and _planned_steps(config, number - 1) == config.max_stage_steps
    return Stage(
        number=number,
        first_step=first_step,
        steps=steps,
        probe_steps=round(steps * config.probe_fraction),
        objective="validation" if reached_max else "training",
    )


def plan_stages(config: AutoLRSConfig) -> tuple[Stage, ...]:
    """Return every stage of a run.

    >>> config = AutoLRSConfig(total_steps=16_500, lr_min=1e-3, lr_max=1.0)
    >>> [(stage.first_step, stage.steps, stage.objective) for stage in plan_stages(config)]
    ... # doctest: +NORMALIZE_WHITESPACE
    [(0, 1000, 'training'), (1000, 2000, 'training'), (3000, 4000, 'training'),
     (7000, 8000, 'training'), (15000, 1500, 'validation')]
    """
    stages: list[Stage] = []
    stage = next_stage(config, None)
    while stage is not None:
        stages.append(stage)
        stage = next_stage(config, stage)
    return tuple(stages)


def validation_interval(config: AutoLRSConfig, probe_steps: int) -> int:
    """Return the steps between two validation losses of a probe (published code)."""
    return max(1, probe_steps // config.validation_evals)


def _planned_steps(config: AutoLRSConfig, number: int) -> int:
    """Return τ of a stage before the run's end cuts or stretches it."""
    steps = config.first_stage_steps
    for _ in range(number - 1):
        if steps >= config.max_stage_steps:
            break
        steps *= config.stage_growth
    return min(steps, config.max_stage_steps)
