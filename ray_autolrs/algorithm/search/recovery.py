"""Back from a divergence: which LRs a stage tries after one, and which the stages after it.

Symbols
    c   smallest learning rate (LR) that was applied in the stage and diverged
    η   LR in use
    f   factor between two LRs that are tried (RECOVERY_FACTOR)

In the stage itself c / 2 and c / (2f) are tried from its start, for twice the steps that c took to
diverge, because lower LRs diverge more slowly; and c / (2f²) if both diverge, or end above the loss
that the run began with. The stages after it try the LR in use against f·η, at most up to the LR
that was lost, and take it if its loss is lower: the place may have been at fault, not the LR. Where
two stages diverged it is the LR, and the end is half of the smallest that did. A look that finds
nothing is repeated two stages later, then four, then eight, and not in the last quarter of a run,
where little is left to gain.

The numbers are ours; the halving is as common as any. See docs/divergence.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ray_autolrs.algorithm.search.strategy import Observation, StageContext

RETREAT = 0.5
"""Part of an LR that diverged from which on others are tried."""

LENGTHENED = 2
"""Steps of a probe below an LR that diverged, in those that it took to diverge."""

RECOVERY_FACTOR = 3.0
"""Between two LRs that are tried."""

LAST_LOOK = 0.75
"""Part of a run after which a lowered LR is left as it is."""


def lrs_below(context: StageContext, told: Sequence[Observation]) -> tuple[float, ...]:
    """Return the LRs to try in a stage after its latest divergence, those tried included.

    It needs to know of the first two before it tells whether there is a third.
    """
    lr = RETREAT * min(one.peak_lr for one in context.diverged)
    first = told[context.diverged[-1].probes :][:2]
    none_is_sound = len(first) == 2 and not sound(context, first)
    return tuple(lr / RECOVERY_FACTOR**place for place in range(3 if none_is_sound else 2))


def sound(context: StageContext, results: Sequence[Observation]) -> list[Observation]:
    """Return the probes that did not diverge, and did not end above the run's initial loss."""
    return [
        result
        for result in results
        if result.forecast is not None and not result.forecast.loss > context.initial_loss
    ]


def highest_lr(context: StageContext) -> float:
    """Return the LR up to which a run that diverged may rise again; infinite if none has."""
    by_stage = [[one.peak_lr for one in done.diverged] for done in context.past if done.diverged]
    if len(by_stage) > 1:
        return RETREAT * min(map(min, by_stage))
    return max(by_stage[0]) if by_stage else math.inf


def is_time_to_look(context: StageContext) -> bool:
    """Return whether a run that diverged in an earlier stage looks for a higher LR in this one."""
    past, stage, total = context.past, context.stage, context.facts.total_steps
    diverged = any(done.diverged for done in past)
    if not diverged or (total is not None and stage.first_step > LAST_LOOK * total):
        return False
    moved = [
        done.stage.number
        for before, done in zip((None, *past), past, strict=False)
        if done.diverged or (before is not None and before.peak_lr != done.peak_lr)
    ]
    since = stage.number - moved[-1]
    return since & (since + 1) == 0  # 1, 3, 7, ... stages after it
