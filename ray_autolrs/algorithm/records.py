"""The run's log: one JSON record for each event and each decision, and the way back.

The records of kind ``ready``, ``probe`` and ``apply`` are the machine's events; replaying them
gives the machine's state, so the log is all that a run needs to go on after a failure. The
others tell a person what was decided. A loss that is not finite is written as null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ray_autolrs.algorithm.machine import (
    Applying,
    Observation,
    Probing,
    Rules,
    RunState,
    WarmingUp,
    advance,
)
from ray_autolrs.algorithm.messages import ApplyDone, Event, ProbeDone, Ready
from ray_autolrs.algorithm.stages import Stage

Record = dict[str, Any]


def event_record(before: RunState, event: Event, after: RunState) -> Record:
    """Return the record of an event that took the machine from ``before`` to ``after``."""
    match event:
        case Ready(step):
            return {"kind": "ready", "step": step}
        case ProbeDone():
            assert isinstance(before.phase, Probing)
            stage = before.phase.stage
            result = _result(after, event.index)
            forecast = result.forecast
            return {
                "kind": "probe",
                "stage": event.stage,
                "index": event.index,
                "first_step": stage.first_step,
                "lr": result.lr,
                "objective": stage.objective,
                "forecast": _finite(forecast.loss) if forecast else None,
                "forecast_std": _finite(forecast.std) if forecast else None,
                "diverged": event.diverged,
                "steps": event.steps,
                "wall_s": event.wall_s,
                "first_loss": _finite(event.first_loss),
                "losses": [_finite(loss) for loss in event.losses],
            }
        case ApplyDone():
            assert isinstance(before.phase, (Applying, WarmingUp))
            return {
                "kind": "apply",
                "stage": event.stage,
                "segment": before.phase.segment.to_dict(),
                "diverged": event.diverged,
                "steps": len(event.losses),
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
        "objective": phase.stage.objective,
        "first_step": phase.stage.first_step,
        "steps": phase.stage.steps,
    }


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
            )
        case _:
            return None


def replay(rules: Rules, records: Iterable[Record]) -> RunState:
    """Return the state that a log leads to.

    The LRs that the log holds are taken from it: a search would suggest the same ones, and
    slower. Only what the log does not hold is asked for.
    """
    records = list(records)
    logged = {
        (record["stage"], record["index"]): float(record["lr"])
        for record in records
        if record["kind"] == "probe"
    }

    def suggest(stage: Stage, told: Sequence[Observation], running: Sequence[float]) -> float:
        lr = logged.get((stage.number, len(told) + len(running)))
        return rules.suggest(stage, told, running) if lr is None else lr

    replaying = replace(rules, suggest=suggest)
    state = RunState()
    for record in records:
        event = record_event(record)
        if event is not None:
            state, _ = advance(replaying, state, event)
    return state


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
