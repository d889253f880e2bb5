"""Back from a divergence: what follows an applied LR whose loss is not finite.

The workers go back to the state at the stage's start, the last that is known to be good. The
strategy is asked for probes again and chooses among LRs below the one that diverged
(:attr:`~ray_autolrs.algorithm.search.strategy.StageContext.diverged`). Ours: the paper does not say
what then.
"""

from __future__ import annotations

from dataclasses import replace

from ray_autolrs.algorithm.search.strategy import Divergence, Observation
from ray_autolrs.algorithm.stages.phases import Applying, Probing, RunState
from ray_autolrs.algorithm.stages.run_plan import RunPlan
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError, search_on

MOST_DIVERGENCES = 3
"""So many of a stage's LRs may diverge, one after the other, before the run stops. Ours."""


def go_back(plan: RunPlan, state: RunState, steps: int) -> RunState:
    """Return the state in which a stage whose LR diverged is searched or applied again.

    Args:
        plan: the run's.
        state: applying the LR that diverged.
        steps: steps that were taken with it.

    Raises:
        SearchFailedError: so many LRs of the stage diverged that the run stops.
    """
    phase = state.phase
    assert isinstance(phase, Applying), phase
    latest = Divergence(phase.segment.peak_lr, steps, len(phase.results), phase.probe)
    diverged = (*phase.diverged, latest)
    if len(diverged) == MOST_DIVERGENCES:
        raise SearchFailedError(_stop_message(phase, diverged))
    if phase.is_closing:  # It is not searched.
        lowered = replace(phase.segment, peak_lr=0.5 * latest.peak_lr)
        return replace(state, phase=replace(phase, segment=lowered, diverged=diverged))
    probing = Probing(
        phase.stage,
        phase.asked,
        _with_diverged(phase.results, phase.probe),
        phase.informed_by,
        plan.facts.shape,
        diverged,
    )
    return search_on(plan, state, probing)


def _with_diverged(results: tuple[Observation, ...], index: int | None) -> tuple[Observation, ...]:
    return tuple(
        replace(result, forecast=None, training_losses=()) if result.index == index else result
        for result in results
    )


def _stop_message(phase: Applying, diverged: tuple[Divergence, ...]) -> str:
    tried = ", ".join(f"{one.peak_lr:.3g} (after {one.steps} steps)" for one in diverged)
    first = phase.stage.first_step
    return (
        f"stage {phase.stage.number} diverged {len(diverged)} times, each time from step {first}, "
        f"at LR {tried}: lower AutoLRSConfig.lr, set max_grad_norm, or look at what the batches "
        f"from step {first} on hold"
    )
