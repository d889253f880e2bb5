"""Leave one group out: a variant is chosen on the other groups, and judged on the one left out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from bench.leave_one_out.comparison import by_group

Scores = Mapping[str, Mapping[str, float]]
"""By variant and task: the relative difference to the task's best tuned rival."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What a group says of the variant that the other groups chose.

    Attributes:
        group: the one left out.
        chosen: the variant that is best in the mean over the other groups.
        value: its mean on the group.
        default: the mean of the first variant, the default.
        best: the lowest mean of any variant, which only hindsight finds.
    """

    group: str
    chosen: str
    value: float
    default: float
    best: float


def shared_tasks(scores: Scores) -> list[str]:
    """Return the tasks that every variant was run on, in the first's order."""
    first, *others = scores.values()
    return [task for task in first if all(task in other for other in others)]


def leave_one_group_out(scores: Scores, groups: Mapping[str, str]) -> list[Judged]:
    """Return, for each group, how the choice of the other groups does on it.

    A group's tasks count alike within it, and groups count alike. Tasks that a variant lacks are
    left out for all. Of equals the earlier variant is chosen.

    Args:
        scores: of each variant, the default first.
        groups: of each task.

    Raises:
        ValueError: the tasks that all variants share lie in fewer than two groups.
    """
    tasks = shared_tasks(scores)
    means = {
        variant: by_group({task: found[task] for task in tasks}, groups)
        for variant, found in scores.items()
    }
    default = next(iter(scores))
    if len(means[default]) < 2:
        raise ValueError("leave-one-group-out needs tasks of two groups that all variants share")
    judged: list[Judged] = []
    for left_out in means[default]:

        def on_others(variant: str, left_out: str = left_out) -> float:
            others = [value for group, value in means[variant].items() if group != left_out]
            return statistics.fmean(others)

        chosen = min(scores, key=on_others)
        judged.append(
            Judged(
                group=left_out,
                chosen=chosen,
                value=means[chosen][left_out],
                default=means[default][left_out],
                best=min(of_variant[left_out] for of_variant in means.values()),
            )
        )
    return judged
