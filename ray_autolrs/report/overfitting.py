"""Whether a stage has gone on after the validation loss had turned, out of its record."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from ray_autolrs.algorithm.stages.records import Record

LEAST_EVALUATIONS = 2
"""In a row above the lowest, before anything is said."""

LEAST_RISE = 0.01
"""Of the lowest loss, by which the later ones lie above it in the mean: less is noise. Ours."""

COMPARED_PART = 0.1
"""Of a stage's steps, whose mean training loss is compared."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The validation loss rose while the training loss fell.

    Attributes:
        step: applied steps done at the stage's lowest validation loss.
        loss: that loss.
        last: the stage's last validation loss.
    """

    step: int
    loss: float
    last: float


def turn(record: Record) -> Turn | None:
    """Return where the validation loss of an applied stage turned; None if it did not.

    The evaluations after the lowest one, two at least, lie above it, and the training loss has
    fallen since.

    Args:
        record: of kind ``apply``.
    """
    losses = [
        (step, loss)
        for step, name, loss in record["evaluations"]
        if name == "loss" and loss is not None
    ]
    if len(losses) <= LEAST_EVALUATIONS:
        return None
    step, lowest = min(losses, key=lambda each: (each[1], each[0]))
    later = [loss for at, loss in losses if at > step]
    if len(later) < LEAST_EVALUATIONS or min(later) <= lowest:
        return None
    if statistics.fmean(later) - lowest <= LEAST_RISE * abs(lowest):
        return None
    first = record["segment"]["first_step"]
    if not _mean(record, record["steps"]) < _mean(record, step - first):
        return None
    return Turn(step, lowest, losses[-1][1])


def _mean(record: Record, done: int) -> float:
    """Return the mean training loss of the steps before ``done`` steps of a stage."""
    count = max(1, round(COMPARED_PART * record["steps"]))
    found = [
        loss for loss in record["training_losses"][max(0, done - count) : done] if loss is not None
    ]
    return statistics.fmean(found) if found else math.nan
