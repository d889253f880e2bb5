"""The learning rate over the run's steps, and each probe at the steps that it took."""

from __future__ import annotations

import numpy as np

from ray_autolrs.report.charts.axes import Axis, number
from ray_autolrs.report.charts.chart import Chart, Curve, Key, Mark, line, mark
from ray_autolrs.report.charts.probe_marks import is_chosen, kind_of, shown_keys, title_of
from ray_autolrs.report.run_view import RunView
from ray_autolrs.schedule import LRSchedule

POINTS = 400
"""Steps at which the schedule is drawn, besides the ends of its segments."""

DECADES_BELOW = 3.0
"""How far below the largest LR the axis may begin: a schedule that falls to 0 would have no end."""


def lr_chart(view: RunView) -> Chart:
    """Return the chart."""
    steps, lrs = scheduled_lrs(view.schedule)
    probes = [(stage, probe) for stage in view.searched for probe in stage.probes]
    tried = [probe["peak_lr"] for _, probe in probes]
    highest = max([*tried, *lrs], default=1.0)
    shown = [lr for lr in lrs if lr >= highest * 10**-DECADES_BELOW]
    x = Axis.over("step", [0, view.total_steps], margin=0.0)
    y = Axis.over("learning rate (log)", [*tried, *shown], is_log=True)
    curves: list[Curve] = []
    marks: list[Mark] = []
    for stage, probe in probes:
        begin, lr = probe["first_step"], probe["peak_lr"]
        end = begin + probe["steps"]
        kind, title = kind_of(stage, probe), title_of(probe)
        curves.append(Curve(line(x, y, [begin, end], [lr, lr]), f"probe {kind}", title))
        shape = "cross" if kind == "diverged" else "dot"
        marks.append(mark(x, y, (end, lr), shape, kind, title))
        if is_chosen(stage, probe):
            marks.append(mark(x, y, (end, lr), "ring", "chosen", title))
    if lrs:
        title = f"LR of the schedule, at most {number(max(lrs), 3)}"
        curves.append(Curve(line(x, y, steps, lrs), "applied", title))
    return Chart(
        label="Learning rate over the applied steps, with every probe.",
        x=x,
        y=y,
        height=300,
        curves=curves,
        marks=marks,
        keys=(Key("applied", "schedule"), *shown_keys(view.searched)),
        is_shaded=bool(probes),
    )


def scheduled_lrs(schedule: LRSchedule | None) -> tuple[list[int], list[float]]:
    """Return steps of a schedule to draw it at, and their LRs."""
    if schedule is None:
        return [], []
    ends = [step for each in schedule.segments for step in (each.first_step, each.last_step)]
    between = np.linspace(0, schedule.total_steps - 1, POINTS).round().astype(int).tolist()
    steps = sorted({*ends, *between})
    return steps, [schedule.lr_at(step) for step in steps]
