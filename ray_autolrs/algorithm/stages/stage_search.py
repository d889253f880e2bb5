"""The search of one stage: which probes are asked, what is applied, and what if that diverges.

Pure functions of the machine's state; the decisions are a strategy's
(:class:`~ray_autolrs.algorithm.search.strategy.SearchStrategy`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ray_autolrs.algorithm.schedules.run_shape import is_falling, run_shape
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search.strategy import (
    MOST_RETREATS,
    Candidate,
    Observation,
    PastStage,
    SearchStrategy,
    StageContext,
)
from ray_autolrs.algorithm.stages.phases import Applying, Probing, RunState
from ray_autolrs.config import AutoLRSConfig


class SearchFailedError(RuntimeError):
    """Every LR that was tried in a stage diverged, so that none can be applied."""


@dataclass(frozen=True)
class Rules:
    """The decisions that the machine leaves to others, all of them pure.

    Attributes:
        config: the run's settings.
        strategy: how a stage is searched.
        parallel_probes: probes that may run at the same time. A probe's LR depends on the
            results of all probes that were asked at least this many places before it, and on
            no other, so that timing cannot change the schedule. Where a strategy needs more
            than those, it waits for all that run.
    """

    config: AutoLRSConfig
    strategy: SearchStrategy
    parallel_probes: int = 1


def search_on(rules: Rules, state: RunState, phase: Probing) -> RunState:
    """Ask for as many probes as may be tried now; apply the choice once there are no more.

    See :attr:`Rules.parallel_probes`.
    """
    context = stage_context(state, phase.stage)
    asked, informed_by, told = list(phase.asked), list(phase.informed_by), phase.in_order
    least = informed_by[-1] if informed_by else 0
    while True:
        usable = max(least, len(asked) + 1 - rules.parallel_probes)
        if usable > len(told):
            break
        running = [candidate.lr for candidate in asked[usable:]]
        candidate = rules.strategy.suggest(context, told[:usable], running)
        if candidate is None and usable < len(asked) == len(told):
            least = len(told)  # It waited for all that ran; now it may look at them.
            continue
        if candidate is None:
            break
        asked.append(candidate)
        informed_by.append(usable)
    phase = replace(phase, asked=tuple(asked), informed_by=tuple(informed_by))
    if len(phase.results) == len(phase.asked):
        return replace(state, phase=choose(rules, state, phase.stage, told, phase.asked))
    return replace(state, phase=phase)


def stage_context(state: RunState, stage: Stage) -> StageContext:
    """Return what a strategy may look at in a stage."""
    past = tuple(
        PastStage(phase.stage, phase.segment.multiplier, phase.results, phase.losses)
        for phase in state.past
        if isinstance(phase, Applying)
    )
    return StageContext(stage, past, state.initial_loss)


def choose(
    rules: Rules,
    state: RunState,
    stage: Stage,
    results: tuple[Observation, ...],
    asked: tuple[Candidate, ...] = (),
) -> Applying:
    """Return the application of the LR that a stage's results speak for.

    Args:
        rules: the run's.
        state: the run so far.
        stage: the stage that was searched.
        results: its judged probes, in the order asked; LRs that were applied and diverged follow.
        asked: its probes, of whose ends one may be gone on from; none if an LR diverged before.

    Raises:
        SearchFailedError: every LR diverged.
    """
    lr = rules.strategy.choose(stage_context(state, stage), results)
    if lr is None:
        tried = ", ".join(f"{result.lr:.3g}" for result in results)
        raise SearchFailedError(
            f"every LR tried in stage {stage.number} diverged ({tried}): lower lr_min and lr_max, "
            "or clip the gradients"
        )
    shape = run_shape(rules.config)
    segment = Segment(stage.first_step, stage.last_step, lr, shape)
    best = next(
        (i for i, candidate in enumerate(asked) if (candidate.lr, candidate.shape) == (lr, shape)),
        None,
    )
    return Applying(stage=stage, segment=segment, results=results, best=best)


def choose_another(rules: Rules, state: RunState, phase: Applying) -> Applying:
    """Choose again without the LR that diverged. Ours: the paper does not say what then."""
    segment = phase.segment
    lr = segment.multiplier
    if rules.config.total_steps is None and is_falling(segment.shape):
        # The closing stage is not searched: half the LR, as long as there is hope.
        retreats = (*phase.results, Observation(len(phase.results), lr, None))
        if len(retreats) > MOST_RETREATS:
            raise SearchFailedError(f"the last stage diverged {len(retreats)} times, at {lr:.3g}")
        return replace(phase, segment=replace(segment, multiplier=lr / 2), results=retreats)
    results = tuple(
        replace(result, forecast=None, losses=()) if result.lr == lr else result
        for result in phase.results
    )
    if results == phase.results:  # The LR was not a probed one.
        results = (*results, Observation(index=len(results), lr=lr, forecast=None))
    return choose(rules, state, phase.stage, results)
