"""A table of stages: what each one cost, what was forecast and what came out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.report.costs import count_costs

OUTCOME_STEPS = 10
"""Training losses at a stage's end that its outcome is the mean of. Source: the published code
takes the mean of ten as the current loss."""

_HEADER = (
    "stage",
    "lr",
    "judged by",
    "forecast",
    "outcome",
    "probe steps",
    "apply steps",
    "seconds",
)


def stage_table(records: Sequence[Record]) -> str:
    """Return the table as text, one line for each applied stage and one for their sum.

    Forecast and outcome are the same loss, that by which the stage's probes were judged: training
    or validation loss; the outcome of a stage without probes is its validation loss. In training
    loss it is the mean of the last ``OUTCOME_STEPS`` steps.
    """
    objectives = {
        record["stage"]: record["objective"] for record in records if record["kind"] == "probe"
    }
    choices = {record["stage"]: record for record in records if record["kind"] == "choice"}
    applied = {
        record["stage"]: record
        for record in records
        if record["kind"] == "apply" and not record["diverged"]
    }
    rows: list[tuple[str, ...]] = [_HEADER]
    for stage, record in sorted(applied.items()):
        costs = count_costs(records, stage)
        choice = choices.get(stage)
        rows.append(
            (
                str(stage) if choice else "warm-up",
                f"{record['segment']['peak_lr']:.3g}",
                objectives.get(stage, "-"),
                _number(choice["forecast"]) if choice else "-",
                _number(outcome(record, objectives.get(stage, "validation"))) if choice else "-",
                str(costs.probe_steps),
                str(costs.apply_steps),
                f"{costs.probe_s + costs.apply_s:.1f}",
            )
        )
    total = count_costs(records)
    rows.append(
        (
            "sum",
            "",
            "",
            "",
            "",
            str(total.probe_steps),
            str(total.apply_steps),
            f"{total.probe_s + total.apply_s:.1f}",
        )
    )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def outcome(applied: Record, objective: str) -> float:
    """Return the loss that an applied stage ended at, of the kind that its probes forecast."""
    if objective == "training":
        return statistics.fmean(applied["training_losses"][-OUTCOME_STEPS:])
    losses = [value for _, name, value in applied["evaluations"] if name == "loss"]
    return math.nan if losses[-1] is None else float(losses[-1])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
