"""Made-up results, and runs of the stage machine with them, for tests of what searches first."""

from __future__ import annotations

import math

from ray_autolrs.algorithm.forecast.exponential import Forecast
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search.strategy import Observation, StageContext
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Probe, ProbeDone, Ready
from ray_autolrs.algorithm.stages.phases import Finished, RunState
from ray_autolrs.config import AutoLRSConfig

GUESS = {"lr_min": None, "lr_max": None, "first_lr": 0.1}


def run_config(**overrides) -> AutoLRSConfig:
    values = {"total_steps": 2000, "lr_min": 1e-3, "lr_max": 1.0}
    return AutoLRSConfig(**(values | overrides))


def result(index, lr, loss=None) -> Observation:
    return Observation(index, lr, None if loss is None else Forecast(loss, math.nan))


def first(initial_loss=2.0) -> StageContext:
    return StageContext(Stage(1, 0, 120, 20, "validation"), (), initial_loss)


def drive(rules, answer, order=None):
    """Run a machine to its end; return the state and every command in the order answered."""
    state, _ = advance(rules, RunState(), Ready(0))
    answered = []
    while not isinstance(state.phase, Finished):
        waiting = outstanding(state)
        assert len(waiting) <= max(1, rules.parallel_probes)
        command = waiting[0] if order is None else order.choice(waiting)
        answered.append(command)
        state, _ = advance(rules, state, answer(command))
    return state, answered


def u_shaped(best, diverges_at=math.inf, initial_loss=2.0):
    """Answers of a task whose loss is a parabola in log LR, with the minimum at ``best``."""

    def answer(command):
        lr = command.segment.multiplier
        diverged = lr >= diverges_at
        loss = 0.5 + 0.2 * math.log10(lr / best) ** 2
        losses: tuple[float, ...] = (math.nan,) if diverged else (loss,)
        if isinstance(command, Probe):
            first_loss = initial_loss if command.stage == 1 else 1.0
            training = () if diverged else (loss,) * command.steps
            return ProbeDone(
                command.stage,
                command.index,
                losses,
                diverged,
                command.steps,
                0.1,
                first_loss,
                training_losses=training,
            )
        assert isinstance(command, Apply)
        losses = (math.nan,) if diverged else (loss,) * (command.steps - 1)
        return ApplyDone(command.stage, lr, (initial_loss, *losses), diverged, 0.1)

    return answer


def applied(commands, stage=None) -> list[float]:
    return [
        command.segment.multiplier
        for command in commands
        if isinstance(command, Apply) and stage in (None, command.stage)
    ]


def fails_when_applied(stage, times, best=0.1):
    """A task whose loss is not finite in a stage's first ``times`` attempts."""
    sound, left = u_shaped(best), [times]

    def answer(command):
        if isinstance(command, Apply) and command.stage == stage and left[0] > 0:
            left[0] -= 1
            return ApplyDone(stage, command.segment.multiplier, (2.0, math.nan), True, 0.1)
        return sound(command)

    return answer
