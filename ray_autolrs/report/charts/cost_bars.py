"""Where steps and seconds went, as parts of two bars."""

from __future__ import annotations

from dataclasses import dataclass

from ray_autolrs.report.charts.chart import Bar
from ray_autolrs.report.run_view import RunView
from ray_autolrs.report.wall_time import WallTime


@dataclass(frozen=True, slots=True)
class Part:
    """A part of what a run has cost; None where it is not counted.

    Attributes:
        kind: CSS class.
        text: what it is.
        steps: optimizer steps.
        seconds: by the clock.
    """

    kind: str
    text: str
    steps: float | None
    seconds: float | None


def cost_parts(view: RunView, time: WallTime) -> list[Part]:
    """Return the parts that are not zero, applied steps first."""
    costs, finished = view.costs, view.finished or {}
    swept = finished.get("range_test_steps", 0)
    parts = [
        Part("cost-apply", "applied to the model", costs.apply_steps, time.apply_s),
        Part("cost-probe", "probes", costs.probe_steps, time.probe_s),
        Part("cost-forward", "forward passes of probes, as steps", costs.forward_steps, None),
        Part("cost-sweep", "LR range test", swept, None),
        Part("cost-lost", "lost: diverged, or repeated after a restart", costs.lost_steps, None),
        Part("cost-other", "start-up, snapshots, checkpoints, search", None, time.other_s),
    ]
    return [part for part in parts if part.steps or part.seconds]


def cost_bars(amounts: list[tuple[str, float | None, str]]) -> list[Bar]:
    """Return a bar's parts beside each other, from (CSS class, amount, title) of each."""
    total = sum(amount or 0.0 for _, amount, _ in amounts)
    bars, begin = [], 0.0
    for kind, amount, title in amounts:
        if amount and total:
            width = 100 * amount / total
            bars.append(Bar(round(begin, 3), 0.0, round(width, 3), 100.0, kind, title))
            begin += width
    return bars
