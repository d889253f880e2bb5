"""The run's log: one JSON record for each event and each decision, and the way back.

The records of kind ``ready``, ``probe`` and ``apply`` are the machine's events; replaying them
gives the machine's state, so the log is all that a run needs to go on after a failure. Those of
kind ``foreseen`` are probes that were run ahead, before a search asked for them. The others tell a
person what was decided. A loss that is not finite is written as null.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_autolrs.algorithm.forecast.forecaster import Forecast
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.search.strategy import (
    Candidate,
    Choice,
    Observation,
    ProbeLosses,
    SearchStrategy,
    StageContext,
)
from ray_autolrs.algorithm.stages.machine import advance
from ray_autolrs.algorithm.stages.messages import (
    FORESEEN,
    ApplyDone,
    Event,
    FinishRequested,
    Probe,
    ProbeDone,
    Ready,
)
from ray_autolrs.algorithm.stages.phases import Applying, Probing, RunState, WarmingUp
from ray_autolrs.algorithm.stages.run_plan import RunPlan

Record = dict[str, Any]


def event_record(before: RunState, event: Event, after: RunState) -> Record:
    """Return the record of an event that took the machine from ``before`` to ``after``."""
    match event:
        case Ready(step, momentum, begun, done_steps):
            told: Record = {} if momentum is None else {"base_momentum": momentum}
            if begun is not None:
                told |= {"begun": [*begun], "done_steps": done_steps}
            return {"kind": "ready", "step": step, **told}
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
                "attempt": len(before.phase.diverged),
                "first_step": stage.first_step,
                "peak_lr": result.peak_lr,
                "segment": candidate.segment(stage.first_step).to_dict(),
                "evals": candidate.evals,
                "sample_factor": candidate.sample_factor,
                "informed_by": before.phase.informed_by[event.index],
                "explanation": dict(candidate.explanation),
                "objective": "validation" if candidate.evals else "training",
                "forecast": _finite(forecast.loss) if forecast else None,
                "forecast_course": _listed(forecast.course) if forecast else [],
                "forecast_std": _finite(forecast.std) if forecast else None,
                "trusted": forecast.trusted if forecast else None,
                **_probe_outcome(event),
            }
        case ApplyDone():
            assert isinstance(before.phase, (Applying, WarmingUp))
            return {
                "kind": "apply",
                "stage": event.stage,
                "attempt": event.attempt,
                "segment": before.phase.segment.to_dict(),
                "diverged": event.diverged,
                "steps": len(event.training_losses),
                "reused_steps": event.reused_steps,
                "skipped_steps": event.skipped_steps,
                "wall_s": event.wall_s,
                "directness": event.directness,
                "evaluations": [
                    [step, name, _finite(value)] for step, name, value in event.evaluations
                ],
                "training_losses": _listed(event.training_losses),
            }


def foreseen_record(probe: Probe, done: ProbeDone) -> Record:
    """Return the record of a probe that was run before it was asked for."""
    return {
        "kind": "foreseen",
        "stage": probe.stage,
        "segment": probe.segment.to_dict(),
        "evals": probe.evals,
        "sample_factor": probe.sample_factor,
        **_probe_outcome(done),
    }


def record_foreseen(record: Record) -> tuple[Probe, ProbeDone]:
    """Return a probe that was run ahead, and its outcome."""
    probe = Probe(
        record["stage"],
        FORESEEN,
        Segment.from_dict(record["segment"]),
        record["evals"],
        sample_factor=record.get("sample_factor", 1),
    )
    return probe, _probe_done({"index": FORESEEN, **record})


def choice_record(phase: Applying) -> Record:
    """Return the record of a stage's choice; an LR between the tried ones has no forecast."""
    tried = None if phase.probe is None else phase.results[phase.probe]
    forecast = tried.forecast if tried else None
    return {
        "kind": "choice",
        "stage": phase.stage.number,
        "peak_lr": phase.segment.peak_lr,
        "index": phase.probe,
        "forecast": _finite(forecast.loss) if forecast else None,
        "forecast_std": _finite(forecast.std) if forecast else None,
        "reason": _reason(phase, forecast),
        "first_step": phase.stage.first_step,
        "steps": phase.stage.steps,
    }


def _reason(phase: Applying, forecast: Forecast | None) -> str:
    """Return why an LR is applied, in words."""
    if phase.diverged:
        return "below what diverged"
    if not phase.results:
        return "not searched"
    judged = [r.forecast.loss for r in phase.results if r.forecast is not None]
    if forecast is None:
        return "between the tried ones" if judged else "below what diverged"
    return "lowest forecast" if forecast.loss == min(judged) else "kept"


def record_event(record: Record) -> Event | None:
    """Return the event that a record tells, or None if it tells a decision."""
    match record["kind"]:
        case "ready":
            return Ready(
                step=record["step"],
                base_momentum=record.get("base_momentum"),
                begun=tuple(record["begun"]) if "begun" in record else None,
                done_steps=record.get("done_steps", 0),
            )
        case "probe":
            return _probe_done(record)
        case "apply":
            return ApplyDone(
                stage=record["stage"],
                attempt=record["attempt"],
                training_losses=_losses(record["training_losses"]),
                diverged=record["diverged"],
                wall_s=record["wall_s"],
                evaluations=tuple(
                    (step, name, _number(value)) for step, name, value in record["evaluations"]
                ),
                reused_steps=record["reused_steps"],
                skipped_steps=record.get("skipped_steps", 0),
                directness=record.get("directness"),
            )
        case "finish_requested":
            return FinishRequested()
        case _:
            return None


def replay(plan: RunPlan, records: Iterable[Record]) -> RunState:
    """Return the state that a log leads to.

    The LRs that the log holds are taken from it: a search would suggest the same ones, and
    slower. Only what the log does not hold is asked for.
    """
    records = list(records)
    logged = {
        (record["stage"], record.get("attempt", 0), record["index"]): (
            record["informed_by"],
            _candidate(record),
        )
        for record in records
        if record["kind"] == "probe"
    }
    replaying = replace(plan, search=_Logged(logged, plan.search))
    state = RunState()
    for record in records:
        event = record_event(record)
        if event is not None:
            state, _ = advance(replaying, state, event)
    return state


@dataclass(frozen=True)
class _Logged(SearchStrategy):
    """A strategy that asks again what a log holds, when as many results are known as then."""

    logged: Mapping[tuple[int, int, int], tuple[int, Candidate]]
    strategy: SearchStrategy

    def suggest(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        place = (context.stage.number, len(context.diverged), len(told) + len(running))
        if place in self.logged:
            informed_by, candidate = self.logged[place]
            return candidate if len(told) == informed_by else None
        return self.strategy.suggest(context, told, running)

    def judge(self, context: StageContext, candidate: Candidate, losses: ProbeLosses) -> Forecast:
        return self.strategy.judge(context, candidate, losses)

    def choose(
        self, context: StageContext, told: Sequence[Observation], rejected: Sequence[float]
    ) -> Choice | None:
        return self.strategy.choose(context, told, rejected)


def _probe_outcome(done: ProbeDone) -> Record:
    return {
        "diverged": done.diverged,
        "steps": done.steps,
        "forward_steps": done.forward_steps,
        "skipped_steps": done.skipped_steps,
        "wall_s": done.wall_s,
        "training_losses": _listed(done.training_losses),
        "validation_losses": _listed(done.validation_losses),
    }


def _probe_done(record: Record) -> ProbeDone:
    return ProbeDone(
        stage=record["stage"],
        index=record["index"],
        training_losses=_losses(record["training_losses"]),
        validation_losses=_losses(record["validation_losses"]),
        diverged=record["diverged"],
        wall_s=record["wall_s"],
        forward_steps=record["forward_steps"],
        skipped_steps=record.get("skipped_steps", 0),
    )


def _candidate(record: Record) -> Candidate:
    segment = Segment.from_dict(record["segment"])
    return Candidate(
        segment.peak_lr,
        segment.steps,
        record["evals"],
        segment.shape,
        record.get("explanation", {}),
        record.get("sample_factor", 1),
    )


def _result(state: RunState, index: int) -> Observation:
    phase = state.phase
    assert isinstance(phase, (Probing, Applying)), phase
    return next(result for result in phase.results if result.index == index)


def _listed(losses: Sequence[float]) -> list[float | None]:
    return [_finite(loss) for loss in losses]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _losses(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(_number(value) for value in values)
