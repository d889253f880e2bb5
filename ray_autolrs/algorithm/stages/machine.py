"""The stage machine: which command follows which event.

A run is warm-up, then for each stage its probes and its application. Each phase is a frozen
value, and :func:`advance` is the only way from one to the next; it has no side effects, so a
run can be replayed from its events. Which probes a stage makes and what is applied comes from a
search strategy (:mod:`ray_autolrs.algorithm.search.strategy`), whose inside it does not know.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.algorithm.schedules.stage_plan import Stage, closing_stage
from ray_autolrs.algorithm.search.strategy import Observation, ProbeLosses
from ray_autolrs.algorithm.stages.divergence import go_back
from ray_autolrs.algorithm.stages.messages import (
    Apply,
    ApplyDone,
    Command,
    Event,
    Finish,
    FinishRequested,
    Probe,
    ProbeDone,
    Ready,
)
from ray_autolrs.algorithm.stages.phases import (
    Applying,
    Finished,
    Phase,
    Probing,
    RunState,
    Starting,
    WarmingUp,
)
from ray_autolrs.algorithm.stages.run_plan import RunPlan
from ray_autolrs.algorithm.stages.stage_search import (
    SearchFailedError,
    search_on,
    stage_context,
)


def advance(plan: RunPlan, state: RunState, event: Event) -> tuple[RunState, tuple[Command, ...]]:
    """Return the state after an event, and the commands that it calls for.

    An event that was told before is accepted and calls for nothing: a message may be sent
    again after a failure.

    Raises:
        SearchFailedError: all probes of a stage diverged, or too many that were applied did.
    """
    match event:
        case Ready():
            return _ready(plan, state, event)
        case ProbeDone():
            return _probe_done(plan, state, event)
        case ApplyDone():
            return _apply_done(plan, state, event)
        case FinishRequested():
            return _finish_requested(state), ()


def _finish_requested(state: RunState) -> RunState:
    """Note the stage under way: a run that is set back to an earlier one goes through it again."""
    if state.ending is not None:
        return state
    match state.phase:
        case Probing(stage) | Applying(stage):
            return replace(state, ending=stage.number)
        case _:
            return replace(state, ending=1)


def outstanding(state: RunState) -> tuple[Command, ...]:
    """Return the commands that were given and not answered, in the order given."""
    phase = state.phase
    match phase:
        case Starting():
            return ()
        case WarmingUp(segment):
            return (Apply(stage=0, segment=segment),)
        case Probing(stage, asked, results):
            answered, best = {result.index for result in results}, phase.best
            return tuple(
                _probe_command(phase, index, best)
                for index in range(len(asked))
                if index not in answered
            )
        case Applying(stage, segment, attempt=attempt):
            return (Apply(stage.number, segment, attempt, best=phase.best),)
        case Finished():
            return (Finish(),)


def _ready(plan: RunPlan, state: RunState, event: Ready) -> tuple[RunState, tuple[Command, ...]]:
    """Start the run, or go back to the stage that the workers' checkpoint was taken at.

    Raises:
        ValueError: the log has no stage there.
    """
    if isinstance(state.phase, Starting):
        if event.step != 0:
            raise _unknown_step(event.step)
        return _start(plan, state)
    rewound = _rewind(state, event.step)
    return rewound, outstanding(rewound)


def _start(plan: RunPlan, state: RunState) -> tuple[RunState, tuple[Command, ...]]:
    if plan.warmup is None:
        return _open_stage(plan, state, previous=None)
    state = replace(state, phase=WarmingUp(plan.warmup))
    return state, outstanding(state)


def _open_stage(
    plan: RunPlan, state: RunState, previous: Stage | None
) -> tuple[RunState, tuple[Command, ...]]:
    if (
        plan.facts.total_steps is None
        and previous is not None
        and state.ending is not None
        and previous.number >= state.ending
    ):
        return _close(plan, state, previous)
    stage = plan.stage_after(previous)
    known = state.ahead[0] if state.ahead else None
    if stage is None:
        state = replace(state, phase=Finished(), ahead=())
    elif isinstance(known, (Probing, Applying)) and known.stage == stage:
        state = replace(state, phase=known, ahead=state.ahead[1:])
    else:
        state = replace(state, ahead=())
        state = search_on(plan, state, Probing(stage, run_shape=plan.facts.shape))
    return state, outstanding(state)


def _close(plan: RunPlan, state: RunState, previous: Stage) -> tuple[RunState, tuple[Command, ...]]:
    """Go on to the last stage of a run without a known end, or end it."""
    stage = closing_stage(previous, plan.closing_fraction)
    last = state.past[-1]
    if stage is None or (isinstance(last, Applying) and last.is_closing):
        state = replace(state, phase=Finished())
    else:
        shape = WarmupStableDecay(stage.first_step, stage.steps, 0, stage.steps)
        segment = Segment(stage.first_step, stage.last_step, last.segment.peak_lr, shape)
        state = replace(state, phase=Applying(stage, segment, is_closing=True))
    return state, outstanding(state)


def _probe_command(phase: Probing, index: int, best: int | None) -> Probe:
    stage, candidate = phase.stage, phase.asked[index]
    return Probe(
        stage=stage.number,
        index=index,
        segment=candidate.segment(stage.first_step),
        evals=candidate.evals,
        best=best,
        may_go_on=candidate.shape == phase.run_shape,
        sample_factor=candidate.sample_factor,
    )


def _probe_done(
    plan: RunPlan, state: RunState, event: ProbeDone
) -> tuple[RunState, tuple[Command, ...]]:
    phase = state.phase
    told_before = (
        not isinstance(phase, Probing)
        or phase.stage.number != event.stage
        # A probe that was asked before a restart, and has not been asked again.
        or event.index >= len(phase.asked)
        or any(result.index == event.index for result in phase.results)
    )
    if told_before:
        return state, ()
    assert isinstance(phase, Probing)
    if math.isnan(state.initial_loss):
        state = replace(state, initial_loss=event.first_loss)
    candidate = phase.asked[event.index]
    forecast = None
    training: tuple[float, ...] = ()
    if not event.diverged:
        training = event.training_losses
        losses = ProbeLosses(training, event.validation_losses)
        context = stage_context(plan, state, phase)
        forecast = plan.search.judge(context, candidate, losses)
    result = Observation(event.index, candidate.peak_lr, forecast, candidate.shape, training)
    before = len(phase.asked)
    state = search_on(plan, state, replace(phase, results=(*phase.results, result)))
    if isinstance(state.phase, Probing):
        new, best = range(before, len(state.phase.asked)), state.phase.best
        return state, tuple(_probe_command(state.phase, index, best) for index in new)
    return state, outstanding(state)


def _apply_done(
    plan: RunPlan, state: RunState, event: ApplyDone
) -> tuple[RunState, tuple[Command, ...]]:
    match state.phase:
        case WarmingUp() as phase if event.stage == 0:
            if event.diverged:
                raise SearchFailedError(
                    f"the warm-up to LR {phase.segment.peak_lr:.3g} diverged: lower Warmup.lr"
                )
            past = (*state.past, phase)
            state = replace(state, past=past, initial_loss=event.training_losses[0])
            return _open_stage(plan, state, previous=None)
        case Applying(stage) as phase if (event.stage, event.attempt) == (
            stage.number,
            phase.attempt,
        ):
            if event.diverged:  # What was known of later stages does not follow from another LR.
                state = replace(go_back(plan, state, len(event.training_losses)), ahead=())
                return state, outstanding(state)
            applied = replace(
                phase, training_losses=event.training_losses, directness=event.directness
            )
            state = replace(state, past=(*state.past, applied))
            return _open_stage(plan, state, previous=stage)
        case _:
            return state, ()


def _rewind(state: RunState, step: int) -> RunState:
    """Return the state at the start of the phase that begins at ``step``, results kept."""
    phases = (*state.past, state.phase)
    for place, phase in enumerate(phases):
        if _first_step(phase, state) == step:
            ahead = (*phases[place + 1 :], *state.ahead)
            return replace(state, phase=phase, past=state.past[:place], ahead=ahead)
    raise _unknown_step(step)


def _unknown_step(step: int) -> ValueError:
    return ValueError(
        f"the checkpoint is of step {step}, where no stage of the log begins: checkpoint and log "
        "are not of one run, or the log has lost its end; use another name for a new run"
    )


def _first_step(phase: Phase, state: RunState) -> int:
    match phase:
        case Starting():
            return 0
        case WarmingUp(segment) | Applying(segment=segment):
            return segment.first_step
        case Probing(stage):
            return stage.first_step
        case Finished():
            return state.past[-1].segment.last_step + 1
