"""The search of one stage: which probes are asked, and what is applied.

Pure functions of the machine's state; the decisions are a strategy's
(:class:`~ray_autolrs.algorithm.search.strategy.SearchStrategy`).
"""

from __future__ import annotations

import math
from dataclasses import replace

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.search.strategy import Choice, PastStage, StageContext
from ray_autolrs.algorithm.stages.phases import Applying, Probing, RunState
from ray_autolrs.algorithm.stages.run_plan import RunPlan


class SearchFailedError(RuntimeError):
    """Every LR that was tried in a stage diverged, so that none can be applied.

    Attributes:
        checkpoint_path: folder of the last checkpoint of the run, whose state is good; None where
            there is none.
    """

    checkpoint_path: str | None = None


def search_on(plan: RunPlan, state: RunState, phase: Probing) -> RunState:
    """Ask for as many probes as may be tried now; apply the choice once there are no more.

    With ``plan.parallel_probes`` = 2, probe i is asked from the results of the first i - 1 probes
    in the order asked, whatever else is known. Say probes 0 and 1 run, and 1 ends first: its
    result waits, since probe 2 is to be asked from probe 0 alone. When 0 ends, the strategy is
    shown ([0], running=[1]) and asks for 2. Then 1 counts as told, and it is shown ([0, 1],
    running=[2]) and asks for 3; and so on. If it answers None, it wants more results: once all of
    0 to 2 have ended it is shown ([0, 1, 2], running=[]), and None then ends the search. Each
    probe's ``informed_by`` says how many results it was shown, so that a replay shows as many.
    """
    context = stage_context(plan, state, phase)
    asked, informed_by, told = list(phase.asked), list(phase.informed_by), phase.in_order
    least = informed_by[-1] if informed_by else 0
    while True:
        usable = max(least, len(asked) + 1 - plan.parallel_probes)
        if usable > len(told):
            break
        running = [candidate.peak_lr for candidate in asked[usable:]]
        candidate = plan.search.suggest(context, told[:usable], running)
        if candidate is None and usable < len(asked) == len(told):
            least = len(told)  # It waited for all that ran; now it may look at them.
            continue
        if candidate is None:
            break
        asked.append(candidate)
        informed_by.append(usable)
    phase = replace(phase, asked=tuple(asked), informed_by=tuple(informed_by))
    if len(phase.results) == len(phase.asked):
        return replace(state, phase=_choice(plan, state, phase))
    return replace(state, phase=phase)


def stage_context(plan: RunPlan, state: RunState, probing: Probing) -> StageContext:
    """Return what a strategy may look at in a stage."""
    past = tuple(
        PastStage(
            phase.stage,
            phase.segment.peak_lr,
            phase.results,
            phase.training_losses,
            phase.directness,
            phase.diverged,
        )
        for phase in state.past
        if isinstance(phase, Applying)
    )
    return StageContext(probing.stage, plan.facts, past, state.initial_loss, probing.diverged)


def _choice(plan: RunPlan, state: RunState, phase: Probing) -> Applying:
    """Return the application of the LR that a stage's results speak for.

    Half of the LR that diverged where a strategy, which need not know of it, chooses no lower one.

    Raises:
        SearchFailedError: every LR diverged.
    """
    stage, diverged, results = phase.stage, phase.diverged, phase.in_order
    ceiling = min((one.peak_lr for one in diverged), default=math.inf)
    rejected = tuple(one.peak_lr for one in diverged if one.probe is None)
    choice = plan.search.choose(stage_context(plan, state, phase), results, rejected)
    is_searched_again = bool(diverged) and len(results) > diverged[-1].probes
    if choice is None and (is_searched_again or not diverged):
        tried = ", ".join(f"{lr:.3g}" for lr in [*(r.peak_lr for r in results), *rejected])
        raise SearchFailedError(
            f"every LR tried in stage {stage.number} diverged ({tried}): lower AutoLRSConfig.lr, "
            "or clip the gradients"
        )
    if choice is None or choice.peak_lr >= ceiling:
        choice = Choice(0.5 * ceiling)
    shape = plan.facts.shape
    return Applying(
        stage,
        Segment(stage.first_step, stage.last_step, choice.peak_lr, shape),
        results,
        probe=choice.probe,
        may_go_on=choice.probe is not None and results[choice.probe].shape == shape,
        asked=phase.asked,
        informed_by=phase.informed_by,
        diverged=diverged,
    )
