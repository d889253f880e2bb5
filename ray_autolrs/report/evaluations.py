"""The validation of the applied model, out of a log."""

from __future__ import annotations

from collections.abc import Iterable

from ray_autolrs.algorithm.stages.records import Record

Means = dict[str, float]
"""``"loss"`` and the task's metrics over the whole validation set, by name; None where one is not
finite."""


def evaluations(records: Iterable[Record]) -> dict[int, Means]:
    """Return the means by the number of applied steps done, in that order.

    Of a stage that was applied again, the last time counts; those that diverged are left out.
    """
    by_step: dict[int, Means] = {}
    for record in records:
        if record["kind"] == "apply" and not record["diverged"]:
            for step, name, value in record["evaluations"]:
                by_step.setdefault(step, {})[name] = value
    return dict(sorted(by_step.items()))


def saved_step(by_step: dict[int, Means], *, keep_best: bool) -> int:
    """Return the step whose weights a finished run has saved: the best one, or the last.

    Raises:
        ValueError: there was no evaluation.
    """
    if not keep_best:
        return max(by_step)
    finite = {step: means for step, means in by_step.items() if means["loss"] is not None}
    return min(finite or by_step, key=lambda step: finite.get(step, {}).get("loss", 0.0))
