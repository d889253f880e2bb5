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
        probe_steps: optimizer steps of its shortest probes (τ′).
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

    Without a known end there is always another.

    The objective is the training loss while τ grows, and the validation loss once a stage at
    τ_max has been applied (published code). A departure of ours: a rest shorter than the
    first stage is no stage of its own but lengthens the one before it, and the last stage is
    as long as what is left, so that a run has exactly ``total_steps`` applied steps.
    """
    if previous is None:
        number = 1
        first_step = config.resolved_warmup_steps if config.warmup_is_applied_first else 0
    else:
        number, first_step = previous.number + 1, previous.last_step + 1
    steps = _planned_steps(config, number)
    if config.total_steps is not None:
        left = config.total_steps - first_step
        if left == 0:
            return None
        shortest = config.resolved_first_stage_steps
        assert left >= shortest, (config, previous)
        steps = left if left - steps < shortest else steps
    if config.searches_first:
        objective: Objective = "validation" if config.forecaster is None else "training"
        return Stage(number, first_step, steps, config.resolved_probe_steps, objective)
    longest = config.resolved_max_stage_steps
    reached_max = number > 1 and _planned_steps(config, number - 1) == longest
    return Stage(
        number=number,
        first_step=first_step,
        steps=steps,
        probe_steps=round(steps * config.probe_fraction),
        objective="validation" if reached_max else "training",
    )


def last_stage(config: AutoLRSConfig, previous: Stage) -> Stage | None:
    """Return the stage that a run without an end closes with, or None where there is none.

    Shapes that fall do so over ``decay_fraction`` of the finished run.
    """
    if config.shape == "constant":
        return None
    done = previous.last_step + 1
    part = config.decay_fraction / (1 - config.decay_fraction)
    steps = max(1, round(done * part))
    return Stage(previous.number + 1, done, steps, 0, previous.objective)


def plan_stages(config: AutoLRSConfig) -> tuple[Stage, ...]:
    """Return every stage of a run whose end is known.

    >>> config = AutoLRSConfig.paper(total_steps=16_500, lr_min=1e-3, lr_max=1.0)
    >>> [(stage.first_step, stage.steps, stage.objective) for stage in plan_stages(config)]
    ... # doctest: +NORMALIZE_WHITESPACE
    [(0, 1000, 'training'), (1000, 2000, 'training'), (3000, 4000, 'training'),
     (7000, 8000, 'training'), (15000, 1500, 'validation')]
    """
    assert config.total_steps is not None, config
    stages: list[Stage] = []
    stage = next_stage(config, None)
    while stage is not None:
        stages.append(stage)
        stage = next_stage(config, stage)
    return tuple(stages)


def validation_interval(evals: int, probe_steps: int) -> int:
    """Return the steps between two validation losses of a probe (published code)."""
    return max(1, probe_steps // evals)


def _planned_steps(config: AutoLRSConfig, number: int) -> int:
    """Return τ of a stage before the run's end cuts or stretches it."""
    steps, longest = config.resolved_first_stage_steps, config.resolved_max_stage_steps
    for _ in range(number - 1):
        if steps >= longest:
            break
        steps *= config.stage_growth
    return min(steps, longest)
