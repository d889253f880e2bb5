"""Records of runs that were never made."""

from __future__ import annotations

import math
from typing import Any

from ray_autolrs.comparison.record import RunRecord


def record(method: str, lr: float | None, seed: int, val_loss: float, **values: Any) -> RunRecord:
    """Return a record of 100 steps, of which one with an infinite loss diverged."""
    diverged = not math.isfinite(val_loss)
    values.setdefault("curve", () if diverged else ((50, val_loss + 1.0), (100, val_loss)))
    return RunRecord(
        method=method,
        lr=lr,
        seed=seed,
        steps=100,
        val_loss=val_loss,
        test_loss=None if diverged else val_loss + 0.1,
        diverged=diverged,
        seconds=2.0,
        **values,
    )
