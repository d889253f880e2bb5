"""The run's log: one JSON record for each event and each decision, and the way back.

The records of kind ``ready``, ``probe`` and ``apply`` are the machine's events; replaying them
gives the machine's state, so the log is all that a run needs to go on after a failure. The
others tell a person what was decided. A loss that is not finite is written as null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_autolrs.algorithm.forecast.exponential import Forecast
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.search.strategy import (
    Candidate,
    Observation,
    SearchStrategy,
    StageContext,
)
from ray_autolrs.algorithm.stages.machine import advance
from ray_autolrs.algorithm.stages.messages import (
    ApplyDone,
    Event,
    FinishRequested,
    ProbeDone,
    Ready,
)
from ray_autolrs.algorithm.stages.phases import Applying, Probing, RunState, WarmingUp
from ray_autolrs.algorithm.stages.stage_search import Rules

Record = dict[str, Any]


def event_record(before: RunState, event: Event, after: RunState) -> Record:
    """Return the record of an event that took the machine from ``before`` to ``after``."""
    match event:
        case Ready(step):
            return {"kind": "ready", "step": step}
        case FinishRequested():
            return {"kind": "finish_requested"}
        case ProbeDone():
            assert isinstance(before.phase, Probing)
            stage = before.phase.stage
            candidate = before.phase.asked[event.index]
            result = _result(after, event.index)
            forecast = result.forecast
            return {
                "kind": "probe",
                "stage": event.stage,
                "index": event.index,
                "first_step": stage.first_step,
                "lr": result.lr,
                "segment": candidate.segment(stage.first_step).to_dict(),
                "evals": candidate.evals,
                "informed_by": before.phase.informed_by[event.index],
                "objective": "validation" if candidate.evals else "training",
                "forecast": _finite(forecast.loss) if forecast else None,
                "forecast_std": _finite(forecast.std) if forecast else None,
                "trusted": forecast.trusted if forecast else None,
                "diverged": event.diverged,
                "steps": event.steps,
                "forward_steps": event.forward_steps,
                "wall_s": event.wall_s,
                "first_loss": _finite(event.first_loss),
                "losses": [_finite(loss) for loss in event.losses],
                "training_losses": [_finite(loss) for loss in event.training_losses],
            }
        case ApplyDone():
            assert isinstance(before.phase, (Applying, WarmingUp))
            return {
                "kind": "apply",
                "stage": event.stage,
                "segment": before.phase.segment.to_dict(),
                "diverged": event.diverged,
                "steps": len(event.losses),
                "reused_steps": event.reused_steps,
                "wall_s": event.wall_s,
                "evaluations": [
                    [step, name, _finite(value)] for step, name, value in event.evaluations
                ],
                "losses": [_finite(loss) for loss in event.losses],
            }


def choice_record(phase: Applying) -> Record:
    """Return the record of a stage's choice; an LR between the probed ones has no forecast."""
    lr = phase.segment.multiplier
    probed = next((result for result in phase.results if result.lr == lr), None)
    forecast = probed.forecast if probed else None
    return {
        "kind": "choice",
        "stage": phase.stage.number,
        "lr": lr,
        "index": probed.index if probed else None,
        "forecast": _finite(forecast.loss) if forecast else None,
        "forecast_std": _finite(forecast.std) if forecast else None,
        "reason": _reason(phase, probed),
        "objective": phase.stage.objective,
        "first_step": phase.stage.first_step,
        "steps": phase.stage.steps,
    }


def _reason(phase: Applying, probed: Observation | None) -> str:
    """Return why an LR is applied, in words."""
    if not phase.results:
        return "not searched"
    judged = [r.forecast.loss for r in phase.results if r.forecast is not None]
    if probed is None or probed.forecast is None:
        return "between the probed ones" if judged else "those before it diverged"
    return "lowest forecast" if probed.forecast.loss == min(judged) else "kept"


def record_event(record: Record) -> Event | None:
    """Return the event that a record tells, or None if it tells a decision."""
    match record["kind"]:
        case "ready":
            return Ready(step=record["step"])
        case "probe":
            return ProbeDone(
                stage=record["stage"],
                index=record["index"],
                losses=_losses(record["losses"]),
                diverged=record["diverged"],
                steps=record["steps"],
                wall_s=record["wall_s"],
                first_loss=_number(record["first_loss"]),
                forward_steps=record["forward_steps"],
                training_losses=_losses(record["training_losses"]),
            )
        case "apply":
            return ApplyDone(
                stage=record["stage"],
                lr=float(record["segment"]["multiplier"]),
                losses=_losses(record["losses"]),
                diverged=record["diverged"],
                wall_s=record["wall_s"],
                evaluations=tuple(
                    (step, name, _number(value)) for step, name, value in record["evaluations"]
                ),
                reused_steps=record["reused_steps"],
            )
        case "finish_requested":
            return FinishRequested()
        case _:
            return None


def replay(rules: Rules, records: Iterable[Record]) -> RunState:
    """Return the state that a log leads to.

    The LRs that the log holds are taken from it: a search would suggest the same ones, and
    slower. Only what the log does not hold is asked for.
    """
    records = list(records)
    logged = {
        (record["stage"], record["index"]): (record["informed_by"], _candidate(record))
        for record in records
        if record["kind"] == "probe"
    }
    replaying = replace(rules, strategy=_Logged(logged, rules.strategy))
    state = RunState()
    for record in records:
        event = record_event(record)
        if event is not None:
            state, _ = advance(replaying, state, event)
    return state


@dataclass(frozen=True)
class _Logged:
    """A strategy that asks again what a log holds, when as many results are known as then."""

    logged: dict[tuple[int, int], tuple[int, Candidate]]
    strategy: SearchStrategy

    def suggest(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        place = (context.stage.number, len(told) + len(running))
        if place in self.logged:
            informed_by, candidate = self.logged[place]
            return candidate if len(told) == informed_by else None
        return self.strategy.suggest(context, told, running)

    def judge(
        self, context: StageContext, candidate: Candidate, losses: Sequence[float]
    ) -> Forecast:
        return self.strategy.judge(context, candidate, losses)

    def choose(self, context: StageContext, told: Sequence[Observation]) -> float | None:
        return self.strategy.choose(context, told)


def _candidate(record: Record) -> Candidate:
    segment = Segment.from_dict(record["segment"])
    return Candidate(segment.multiplier, segment.steps, record["evals"], segment.shape)


def _result(state: RunState, index: int) -> Observation:
    phase = state.phase
    assert isinstance(phase, (Probing, Applying)), phase
    return next(result for result in phase.results if result.index == index)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _losses(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(_number(value) for value in values)
