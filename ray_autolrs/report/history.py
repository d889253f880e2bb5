"""The log as a table: one row for each probe and each evaluation of the applied model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_autolrs.algorithm.stages.records import Record

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "kind",
    "stage",
    "index",
    "step",
    "peak_lr",
    "objective",
    "loss",
    "forecast",
    "forecast_std",
    "diverged",
    "steps",
    "wall_s",
)
"""The columns of every history; a task's metrics stand behind them."""


def history_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return the rows, in the log's order.

    ``kind`` is ``"probe"`` or ``"evaluation"``. ``step`` is the applied step that a probe started
    from, or the applied steps done at an evaluation. ``loss`` is a probe's last loss (training or
    validation, as ``objective`` says), or the loss on the whole validation set. ``steps`` and
    ``wall_s`` are a probe's own.
    """
    rows: list[dict[str, Any]] = []
    for record in records:
        if record["kind"] == "probe":
            row = {name: record.get(name) for name in COLUMNS}
            row["step"] = record["first_step"]
            losses = record["validation_losses"] or record["training_losses"]
            row["loss"] = losses[-1] if losses else None
            rows.append(row)
        elif record["kind"] == "apply":
            rows += _evaluation_rows(record)
    return rows


def history_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return the rows as a pandas ``DataFrame``, with missing values as NaN."""
    import pandas as pd

    rows = history_rows(records)
    extra = sorted({name for row in rows for name in row} - set(COLUMNS))
    return pd.DataFrame(rows, columns=[*COLUMNS, *extra])


def write_history(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Write the rows to a file that ends in ``.parquet`` or ``.csv``.

    Raises:
        ValueError: the suffix is another.
    """
    frame, suffix = history_frame(records), Path(path).suffix
    if suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        raise ValueError(f"path={os.fspath(path)!r} must end in .parquet or .csv")


def _evaluation_rows(record: Record) -> list[dict[str, Any]]:
    by_step: dict[int, dict[str, Any]] = {}
    for step, name, value in record["evaluations"]:
        row = by_step.setdefault(
            step,
            {
                "kind": "evaluation",
                "stage": record["stage"],
                "step": step,
                "peak_lr": record["segment"]["peak_lr"],
                "objective": "validation",
                "diverged": record["diverged"],
            },
        )
        row[name] = value
    return list(by_step.values())
