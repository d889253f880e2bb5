"""One table of what the search costs beyond its own steps, from what the benches have written.

    python -m bench.table

Each figure is a ratio that one bench has measured in one run. A figure whose bench has not run is
told as such.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measurement import RESULTS_FOLDER, Row, options
from ray_autolrs.comparison.table import markdown

Pick = Callable[[list[Row]], float | None]


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table.

    Attributes:
        name: what is measured.
        against: what it is divided by.
        at_most: what is held to be next to nothing.
        bench: that measures it.
        pick: finds it in the bench's rows; None where it is not among them.
    """

    name: str
    against: str
    at_most: float
    bench: str
    pick: Pick


def row_with(key: str, value: Any, number: str) -> Pick:
    """Return what finds a number in the last row that has a value."""

    def pick(rows: list[Row]) -> float | None:
        found = [row[number] for row in rows if row.get(key) == value]
        return None if not found or found[-1] is None else float(found[-1])

    return pick


def memory_above_loop(rows: list[Row]) -> float | None:
    """Return the copies of the parameters beyond a plain loop's, with a snapshot's three."""
    copies = {row["what"]: row["copies of the parameters"] for row in rows}
    ours, theirs = copies.get("run, AdamW, averaged"), copies.get("loop, schedulefree's AdamW")
    return None if ours is None or theirs is None else ours - theirs


FIGURES = (
    Figure(
        "apply step, no averaging",
        "a hand-written loop's",
        1.02,
        "steps",
        row_with("step", "no average, over AdamW", "ratio"),
    ),
    Figure(
        "apply step, default",
        "a loop with schedulefree's AdamW",
        1.02,
        "steps",
        row_with("step", "default, over schedulefree's AdamW", "ratio"),
    ),
    Figure(
        "probe's step",
        "a stage's",
        1.02,
        "steps",
        row_with("step", "a probe's, over a stage's", "ratio"),
    ),
    *(
        Figure(
            f"{what}, {place}",
            "a copy of the same bytes",
            1.3,
            "snapshot",
            row_with("place", place, f"{what} / copy"),
        )
        for what in ("capture", "restore")
        for place in ("device", "host")
    ),
    Figure(
        "deciding a stage, k = 10",
        "scikit-optimize",
        0.1,
        "deciding",
        row_with("probes", 10, "ratio"),
    ),
    Figure(
        "all that is no step, paper",
        "the wall time",
        0.02,
        "stage_overhead",
        row_with("search", "paper", "part"),
    ),
    Figure(
        "all that is no step, default",
        "the wall time",
        0.02,
        "stage_overhead",
        row_with("search", "default", "part"),
    ),
    Figure(
        "validation in a probe",
        "the probe's steps",
        0.15,
        "probe_validation",
        row_with("evaluations", 1, "validation / steps"),
    ),
    Figure("memory, in parameters (AdamW)", "the same loop's", 4.0, "memory", memory_above_loop),
)
"""The last one's bar is 1 for the run and 3 for a snapshot in the same memory."""


def rows_of(folder: Path) -> list[Row]:
    """Return the table's rows from a folder of results."""
    found: list[Row] = []
    for figure in FIGURES:
        path = folder / f"{figure.bench}.json"
        value = commit = None
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            value, commit = figure.pick(result["rows"]), result["commit"]
        found.append(
            {
                "figure": figure.name,
                "over": figure.against,
                "at most": figure.at_most,
                "measured": "not measured" if value is None else round(value, 3),
                "holds": None if value is None else value <= figure.at_most,
                "commit": commit,
            }
        )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.parse_args(argv)
    print(markdown(rows_of(RESULTS_FOLDER)))


if __name__ == "__main__":
    main()
