"""Made-up results, a scripted strategy, and runs of the stage machine with them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from ray_autolrs.algorithm.forecast.forecaster import Forecast
from ray_autolrs.algorithm.schedules.interpolation import Interpolation
from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.algorithm.schedules.stage_plan import Stage, Stages
from ray_autolrs.algorithm.search.bracket import Bracket
from ray_autolrs.algorithm.search.strategy import (
    Candidate,
    Choice,
    Observation,
    RunFacts,
    SearchStrategy,
    StageContext,
)
from ray_autolrs.algorithm.stages.machine import advance, outstanding
from ray_autolrs.algorithm.stages.messages import (
    Apply,
    ApplyDone,
    Event,
    Finish,
    Probe,
    ProbeDone,
    Ready,
)
from ray_autolrs.algorithm.stages.phases import Finished, RunState
from ray_autolrs.algorithm.stages.records import event_record
from ray_autolrs.algorithm.stages.run_plan import RunPlan

DEFAULT = {
    "total_steps": 2000,
    "lr": (1e-3, 1.0),
    "shape": WarmupStableDecay(0, None, 400, 0, 0.5),
    "is_averaged": True,
    "interpolation": Interpolation(0.8, 2.0),
}
"""What the default makes of 2000 steps."""

NOT_AVERAGED = {"is_averaged": False, "interpolation": None}


def run_facts(**changes) -> RunFacts:
    values: dict[str, Any] = DEFAULT | changes
    return RunFacts(**values)


def run_plan(
    search: SearchStrategy | None = None,
    *,
    stages: Stages | None = None,
    parallel_probes=1,
    **facts,
) -> RunPlan:
    resolved = run_facts(**facts)
    return RunPlan(
        facts=resolved,
        stages=(stages or Stages()).resolve(resolved.total_steps),
        search=(search or Bracket()).resolve(resolved),
        parallel_probes=parallel_probes,
    )


def result(index, lr, loss=None) -> Observation:
    return Observation(index, lr, None if loss is None else Forecast(loss, math.nan))


def first(initial_loss=2.0, **facts) -> StageContext:
    """The first stage of a run of 2000 steps."""
    return StageContext(Stage(1, 0, 120), run_facts(**facts), (), initial_loss)


@dataclass(frozen=True)
class Scripted(SearchStrategy):
    """Suggests stage + place/10, plus what it was told, and takes a probe's last loss.

    Attributes:
        probes: of each stage, a tenth of its steps long.
        between: LRs to apply, the first that has not been rejected; none takes the best probe.
    """

    probes: int = 4
    between: tuple[float, ...] = ()

    def suggest(self, context, told, running):
        if len(told) + len(running) >= self.probes:
            return None
        seen = sum(result.forecast.loss if result.forecast else 0.0 for result in told)
        lr = context.stage.number + (len(told) + len(running)) / 10 + seen / 1000
        evals = 0 if context.stage.grows else 16
        return Candidate(lr, context.stage.steps // 10, evals, context.facts.shape)

    def choose(self, context, told, rejected):
        if self.between:
            return Choice(next(lr for lr in self.between if lr not in rejected))
        judged = [(one.forecast.loss, one.index) for one in told if one.forecast]
        return Choice(told[min(judged)[1]].peak_lr, min(judged)[1]) if judged else None


def drive(plan, answer, order=None):
    """Run a machine to its end; return the state and every command in the order answered."""
    state, _ = advance(plan, RunState(), Ready(0))
    answered = []
    while not isinstance(state.phase, Finished):
        waiting = outstanding(state)
        assert len(waiting) <= max(1, plan.parallel_probes)
        command = waiting[0] if order is None else order.choice(waiting)
        answered.append(command)
        state, _ = advance(plan, state, answer(command))
    return state, answered


def logged(plan, answer):
    """Run a machine to its end; return its state before and after each event, and the records."""
    states, records = [RunState()], []
    event: Event = Ready(0)
    while True:
        after, _ = advance(plan, states[-1], event)
        record = event_record(states[-1], event, after)
        records.append(json.loads(json.dumps(record, allow_nan=False)))
        states.append(after)
        command = outstanding(after)[0]
        if isinstance(command, Finish):
            return states, records
        event = answer(command)


def u_shaped(best, diverges_at=math.inf, initial_loss=2.0):
    """Answers of a task whose loss is a parabola in log LR, with the minimum at ``best``."""

    def answer(command):
        lr = command.segment.peak_lr
        diverged = lr >= diverges_at
        loss = 0.5 + 0.2 * math.log10(lr / best) ** 2
        rest = (math.nan,) if diverged else (loss,) * (command.steps - 1)
        if isinstance(command, Probe):
            before = initial_loss if command.stage == 1 else 1.0
            told = () if diverged else (loss,) * command.evals
            return ProbeDone(command.stage, command.index, (before, *rest), told, diverged, 0.1)
        assert isinstance(command, Apply)
        return ApplyDone(command.stage, command.attempt, (initial_loss, *rest), diverged, 0.1)

    return answer


def applied(commands, stage=None) -> list[float]:
    return [
        command.segment.peak_lr
        for command in commands
        if isinstance(command, Apply) and stage in (None, command.stage)
    ]


def fails_when_applied(stage, times, best=0.1):
    """A task whose loss is not finite in a stage's first ``times`` attempts."""
    sound = u_shaped(best)

    def answer(command):
        if isinstance(command, Apply) and command.stage == stage and command.attempt < times:
            return ApplyDone(stage, command.attempt, (2.0, math.nan), True, 0.1)
        return sound(command)

    return answer
