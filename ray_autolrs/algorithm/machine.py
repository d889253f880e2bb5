"""The stage machine: which command follows which event.

A run is warm-up, then for each stage its probes and its application. Each phase is a frozen
value, and :func:`advance` is the only way from one to the next; it has no side effects, so a
run can be replayed from its events. What an LR search suggests, and what a probe's losses
promise, come from the three functions in :class:`Rules`; the machine knows neither's inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ray_autolrs.algorithm.forecast import Forecast
from ray_autolrs.algorithm.messages import (
    Apply,
    ApplyDone,
    Command,
    Event,
    Finish,
    Probe,
    ProbeDone,
    Ready,
)
from ray_autolrs.algorithm.segments import LinearWarmup, Segment
from ray_autolrs.algorithm.stages import Stage, next_stage
from ray_autolrs.config import AutoLRSConfig


class SearchFailedError(RuntimeError):
    """Every LR that was tried in a stage diverged, so that none can be applied."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A judged probe.

    Attributes:
        index: number of the probe in its stage.
        lr: the LR that it was run with.
        forecast: the loss that it promises at the stage's end; None if it diverged.
    """

    index: int
    lr: float
    forecast: Forecast | None


Suggest = Callable[[Stage, Sequence[Observation], Sequence[float]], float]
Choose = Callable[[Stage, Sequence[Observation]], float]
Judge = Callable[[Stage, Sequence[float], float], Forecast]


@dataclass(frozen=True)
class Rules:
    """The decisions that the machine leaves to others, all of them pure functions.

    Attributes:
        config: the run's settings.
        suggest: (stage, observations in the order asked, LRs asked after those) -> LR to probe.
            The latter count as running, also where their results are known already.
        choose: (stage, observations of which one at least did not diverge) -> LR to apply.
        judge: (stage, losses of a probe, the run's initial loss) -> forecast.
        parallel_probes: probes that may run at the same time. A probe's LR depends on the
            results of all probes that were asked at least this many places before it, and on
            no other, so that timing cannot change the schedule.
    """

    config: AutoLRSConfig
    suggest: Suggest
    choose: Choose
    judge: Judge
    parallel_probes: int = 1


@dataclass(frozen=True, slots=True)
class Starting:
    """Nothing has happened yet."""


@dataclass(frozen=True, slots=True)
class WarmingUp:
    """The warm-up is being applied."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class Probing:
    """LRs are being tried.

    Attributes:
        stage: the stage that they are for.
        asked: the LRs asked so far, in order.
        results: the judged probes by index; those of ``asked`` that are missing still run.
    """

    stage: Stage
    asked: tuple[float, ...] = ()
    results: tuple[Observation, ...] = ()

    @property
    def in_order(self) -> tuple[Observation, ...]:
        """The results up to the first probe that still runs: what a search may be told."""
        ordered = sorted(self.results, key=lambda result: result.index)
        return tuple(result for place, result in enumerate(ordered) if result.index == place)


@dataclass(frozen=True, slots=True)
class Applying:
    """The chosen LR is being applied.

    Attributes:
        stage: the stage that it is applied for.
        segment: its LR.
        results: the stage's judged probes, in the order asked.
    """

    stage: Stage
    segment: Segment
    results: tuple[Observation, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """Every stage is applied."""


Phase = Starting | WarmingUp | Probing | Applying | Finished


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything that the machine knows.

    Attributes:
        phase: what is going on.
        past: the warm-up and the stages that were applied, in order.
        initial_loss: training loss before the first update; NaN until it is known.
    """

    phase: Phase = Starting()
    past: tuple[WarmingUp | Applying, ...] = ()
    initial_loss: float = math.nan

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The schedule found so far, the segment being applied included."""
        applied = tuple(phase.segment for phase in self.past)
        current = self.phase
        return (
            (*applied, current.segment) if isinstance(current, (WarmingUp, Applying)) else applied
        )


def advance(rules: Rules, state: RunState, event: Event) -> tuple[RunState, tuple[Command, ...]]:
    """Return the state after an event, and the commands that it calls for.

    An event that was told before is accepted and calls for nothing: a message may be sent
    again after a failure.

    Raises:
        SearchFailedError: all probes of a stage diverged, or all that were applied did.
    """
    match event:
        case Ready():
            return _ready(rules, state, event)
        case ProbeDone():
            return _probe_done(rules, state, event)
        case ApplyDone():
            return _apply_done(rules, state, event)


def outstanding(state: RunState) -> tuple[Command, ...]:
    """Return the commands that were given and not answered, in the order given."""
    phase = state.phase
    match phase:
        case Starting():
            return ()
        case WarmingUp(segment):
            return (Apply(stage=0, segment=segment),)
        case Probing(stage, asked, results):
            answered = {result.index for result in results}
            return tuple(
                _probe_command(stage, index, lr)
                for index, lr in enumerate(asked)
                if index not in answered
            )
        case Applying(stage, segment):
            return (Apply(stage=stage.number, segment=segment),)
        case Finished():
            return (Finish(),)


def _ready(rules: Rules, state: RunState, event: Ready) -> tuple[RunState, tuple[Command, ...]]:
    """Start the run, or go back to the stage that the workers' checkpoint was taken at."""
    if isinstance(state.phase, Starting):
        assert event.step == 0, event
        return _start(rules, state)
    rewound = _rewind(state, event.step)
    return rewound, outstanding(rewound)


def _start(rules: Rules, state: RunState) -> tuple[RunState, tuple[Command, ...]]:
    config = rules.config
    if config.warmup_steps == 0:
        return _open_stage(rules, state, previous=None)
    segment = Segment(
        first_step=0,
        last_step=config.warmup_steps - 1,
        multiplier=config.resolved_warmup_lr,
        shape=LinearWarmup(first_step=0, steps=config.warmup_steps),
    )
    state = replace(state, phase=WarmingUp(segment))
    return state, outstanding(state)


def _open_stage(
    rules: Rules, state: RunState, previous: Stage | None
) -> tuple[RunState, tuple[Command, ...]]:
    stage = next_stage(rules.config, previous)
    if stage is None:
        state = replace(state, phase=Finished())
    else:
        state = replace(state, phase=_ask(rules, Probing(stage)))
    return state, outstanding(state)


def _ask(rules: Rules, phase: Probing) -> Probing:
    """Ask for as many LRs as may be tried now; see :attr:`Rules.parallel_probes`."""
    asked = list(phase.asked)
    told = phase.in_order
    while len(asked) < rules.config.probes_per_stage:
        usable = max(0, len(asked) + 1 - rules.parallel_probes)
        if usable > len(told):
            break
        asked.append(rules.suggest(phase.stage, told[:usable], asked[usable:]))
    return replace(phase, asked=tuple(asked))


def _probe_command(stage: Stage, index: int, lr: float) -> Probe:
    segment = Segment(
        first_step=stage.first_step,
        last_step=stage.first_step + stage.probe_steps - 1,
        multiplier=lr,
    )
    return Probe(stage=stage.number, index=index, segment=segment, objective=stage.objective)


def _probe_done(
    rules: Rules, state: RunState, event: ProbeDone
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
    result = Observation(
        index=event.index,
        lr=phase.asked[event.index],
        forecast=None
        if event.diverged
        else rules.judge(phase.stage, event.losses, state.initial_loss),
    )
    before = len(phase.asked)
    phase = _ask(rules, replace(phase, results=(*phase.results, result)))
    if len(phase.results) == rules.config.probes_per_stage:
        state = replace(state, phase=_choose(rules, phase.stage, phase.in_order))
        return state, outstanding(state)
    new_commands = tuple(
        _probe_command(phase.stage, index, phase.asked[index])
        for index in range(before, len(phase.asked))
    )
    return replace(state, phase=phase), new_commands


def _choose(rules: Rules, stage: Stage, results: tuple[Observation, ...]) -> Applying:
    if all(result.forecast is None for result in results):
        tried = ", ".join(f"{result.lr:.3g}" for result in results)
        raise SearchFailedError(
            f"every LR tried in stage {stage.number} diverged ({tried}): lower lr_min and lr_max, "
            "or clip the gradients"
        )
    lr = rules.choose(stage, results)
    segment = Segment(first_step=stage.first_step, last_step=stage.last_step, multiplier=lr)
    return Applying(stage=stage, segment=segment, results=results)


def _apply_done(
    rules: Rules, state: RunState, event: ApplyDone
) -> tuple[RunState, tuple[Command, ...]]:
    match state.phase:
        case WarmingUp() as phase if event.stage == 0:
            if event.diverged:
                raise SearchFailedError(
                    f"the warm-up to LR {phase.segment.multiplier:.3g} diverged: lower warmup_lr"
                )
            past = (*state.past, phase)
            state = replace(state, past=past, initial_loss=event.losses[0])
            return _open_stage(rules, state, previous=None)
        case Applying(stage, segment) as phase if (event.stage, event.lr) == (
            stage.number,
            segment.multiplier,
        ):
            if event.diverged:
                state = replace(state, phase=_choose_another(rules, phase))
                return state, outstanding(state)
            state = replace(state, past=(*state.past, phase))
            return _open_stage(rules, state, previous=stage)
        case _:
            return state, ()


def _choose_another(rules: Rules, phase: Applying) -> Applying:
    """Choose again without the LR that diverged. Ours: the paper does not say what then."""
    lr = phase.segment.multiplier
    results = tuple(
        replace(result, forecast=None) if result.lr == lr else result for result in phase.results
    )
    if results == phase.results:  # The LR was chosen between the probed ones.
        results = (*results, Observation(index=len(results), lr=lr, forecast=None))
    return _choose(rules, phase.stage, results)


def _rewind(state: RunState, step: int) -> RunState:
    """Return the state at the start of the phase that begins at ``step``, results kept."""
    phases = (*state.past, state.phase)
    for place, phase in enumerate(phases):
        if _first_step(phase, state) == step:
            return replace(state, phase=phase, past=state.past[:place])
    raise AssertionError(f"no phase begins at step {step}: {phases}")


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
