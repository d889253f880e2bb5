"""Runs side by side: what each one reached and cost, and which settings they do not share."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ray_autolrs.report.run_view import RunView
from ray_autolrs.settings_tree import StoredSettings, differences

_HEADER = ("run", "state", "steps", "lr", "best loss", "last loss", "search steps", "seconds")


def compare_runs(runs: Sequence[RunView]) -> str:
    """Return the table as text, and below it a line for each setting that differs.

    Raises:
        ValueError: the settings of a run are not stored.
    """
    first, *others = [(run.name, _stored(run)) for run in runs]
    rows = [_HEADER, *(_row(run) for run in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for name, stored in others:
        lines += [
            f"{difference.path}: {first[0]} {json.dumps(difference.given)}, "
            f"{name} {json.dumps(difference.stored)}"
            for difference in differences(first[1], stored)
        ]
    return "\n".join(lines)


def _stored(run: RunView) -> StoredSettings:
    if run.stored is None:
        raise ValueError(f"the run {run.name} has no config.json")
    return run.stored


def _row(run: RunView) -> tuple[str, ...]:
    losses = [means["loss"] for means in run.evaluations.values() if means.get("loss") is not None]
    lrs = [stage.applied["segment"]["peak_lr"] for stage in run.stages if stage.applied]
    return (
        run.name,
        "not finished" if run.finished is None else "finished",
        str(run.costs.apply_steps),
        ", ".join(f"{lr:.3g}" for lr in dict.fromkeys(lrs)) or "-",
        f"{min(losses):.4g}" if losses else "-",
        f"{losses[-1]:.4g}" if losses else "-",
        f"{run.costs.probe_steps + run.costs.forward_steps + run.costs.lost_steps:.0f}",
        f"{run.costs.probe_s + run.costs.apply_s:.1f}",
    )
