"""Runs side by side: what each one reached and cost, and which settings they do not share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.report.costs import count_costs
from ray_autolrs.settings_tree import differences, from_stored

_HEADER = ("run", "state", "steps", "lr", "best loss", "last loss", "search steps", "seconds")


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What a comparison reads of a run.

    Attributes:
        name: of its folder.
        settings: its ``config.json``.
        records: of its log.
    """

    name: str
    settings: dict[str, Any]
    records: tuple[Record, ...]

    @classmethod
    def read(cls, folder: Path) -> RunFiles:
        """Read a run's folder; a last record that is not complete is left out.

        Raises:
            ValueError: the folder is not a run's; the message names the file.
        """
        content: dict[str, bytes] = {}
        for name in ("config.json", "events.jsonl"):
            try:
                content[name] = (folder / name).read_bytes()
            except OSError as error:
                raise ValueError(
                    f"{folder} is not a run's folder, or its run has not begun: {error}"
                ) from error
        log = content["events.jsonl"]
        try:
            settings = from_stored(json.loads(content["config.json"]))
            lines = log[: log.rfind(b"\n") + 1].splitlines()
            return cls(folder.name, settings, tuple(json.loads(line) for line in lines))
        except ValueError as error:
            raise ValueError(f"{folder} is not a run's folder: {error}") from error


def compare_runs(runs: Sequence[RunFiles]) -> str:
    """Return the table as text, and below it a line for each setting that differs."""
    rows = [_HEADER, *(_row(run) for run in runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    first = runs[0]
    for run in runs[1:]:
        lines += [
            f"{difference.path}: {first.name} {json.dumps(difference.given)}, "
            f"{run.name} {json.dumps(difference.stored)}"
            for difference in differences(first.settings, run.settings)
        ]
    return "\n".join(lines)


def _row(run: RunFiles) -> tuple[str, ...]:
    costs = count_costs(run.records)
    applied = [r for r in run.records if r["kind"] == "apply" and not r["diverged"]]
    losses = [
        value
        for record in applied
        for _, name, value in record["evaluations"]
        if name == "loss" and value is not None
    ]
    lrs = [record["segment"]["peak_lr"] for record in applied]
    finished = any(record["kind"] == "finished" for record in run.records)
    return (
        run.name,
        "finished" if finished else "not finished",
        str(costs.apply_steps),
        ", ".join(f"{lr:.3g}" for lr in dict.fromkeys(lrs)) or "-",
        f"{min(losses):.4g}" if losses else "-",
        f"{losses[-1]:.4g}" if losses else "-",
        f"{costs.probe_steps + costs.forward_steps + costs.lost_steps:.0f}",
        f"{costs.probe_s + costs.apply_s:.1f}",
    )
