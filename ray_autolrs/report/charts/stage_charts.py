"""One stage's search: what each probe went through, and what each LR promised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ray_autolrs.algorithm.forecast.forecaster import Array
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.report.charts.axes import Axis, number, spans_decades, without_far
from ray_autolrs.report.charts.chart import Chart, Curve, Key, Mark, in_parts, line, mark, thinned
from ray_autolrs.report.charts.loss_chart import course, loss_values
from ray_autolrs.report.charts.probe_marks import (
    edge_keys,
    is_chosen,
    kind_of,
    shown_keys,
    title_of,
)
from ray_autolrs.report.run_view import StageView

APPLIED_POINTS = 120
"""Points of the applied stage's loss."""


def probes_chart(stage: StageView, most_points: int) -> Chart:
    """Return every probe's loss, its forecast, and the loss of the stage that was applied.

    Args:
        stage: the stage, with probes.
        most_points: points of a probe's curve.
    """
    longest = max(probe["steps"] for probe in stage.probes)
    looks_ahead = any(probe["forecast_std"] is not None for probe in stage.probes)
    end = float(stage.steps or longest) if looks_ahead else float(longest)
    name = "steps into the stage" + (" (log)" if looks_ahead else "")
    x = Axis.over(name, [1, end], is_log=looks_ahead, margin=0.02)
    series = [(probe, *_points(probe, most_points)) for probe in stage.probes]
    applied_x, applied_y = _applied(stage, end)
    y = _loss_axis(stage, [values for _, _, values in series], applied_y)
    curves, marks = [], []
    if len(applied_x):
        curves.append(Curve(line(x, y, applied_x, applied_y), "training", "the stage as applied"))
    for probe, steps, losses in series:
        kind, title = kind_of(stage, probe), title_of(probe)
        curves.append(Curve(line(x, y, steps, losses), f"probe {kind}", title))
        if probe["forecast"] is None:
            known = [(s, v) for s, v in zip(steps, losses, strict=True) if np.isfinite(v)]
            at = known[-1] if known else (1.0, y.high)
            marks.append(mark(x, y, at, "cross", kind, title))
            continue
        at = (end if looks_ahead else float(probe["steps"]), probe["forecast"])
        if looks_ahead:
            curves.append(Curve(line(x, y, *course(probe, end)), f"promise {kind}", title))
        marks.append(mark(x, y, at, "diamond" if looks_ahead else "dot", kind, title))
        if is_chosen(stage, probe):
            marks.append(mark(x, y, at, "ring", "chosen", title))
    if looks_ahead and stage.outcome is not None:
        came = f"{stage.objective} loss {number(stage.outcome)} came"
        marks.append(mark(x, y, (end, stage.outcome), "square", "came", came))
    return Chart(
        label=f"Loss of each probe of {stage.name}.",
        x=x,
        y=y,
        height=280,
        curves=curves,
        marks=marks,
        keys=(
            *_keys(stage, looks_ahead=looks_ahead, is_applied=len(applied_x) > 0),
            *edge_keys(marks),
        ),
        is_shaded=True,
    )


def promises_chart(stage: StageView) -> Chart:
    """Return what each LR of a stage promised, and the LR that was applied."""
    judged = [probe for probe in stage.probes if probe["forecast"] is not None]
    promised = [probe["forecast"] for probe in judged]
    chosen = [] if stage.lr is None else [stage.lr]
    x = Axis.over(
        "learning rate (log)", [*(p["peak_lr"] for p in stage.probes), *chosen], is_log=True
    )
    is_log = spans_decades(promised)
    y = Axis.over("loss" + (" (log)" if is_log else ""), promised, is_log=is_log)
    ordered = sorted(judged, key=lambda probe: probe["peak_lr"])
    lrs, losses = [p["peak_lr"] for p in ordered], [p["forecast"] for p in ordered]
    curves = [Curve(line(x, y, lrs, losses), "guide")]
    curves += [Curve(line(x, y, [lr, lr], [y.low, y.high]), "choice") for lr in chosen]
    marks = [_promise_mark(x, y, stage, probe, y.high) for probe in stage.probes]
    keys = [Key("choice", f"LR applied: {number(stage.lr, 3)}")] if chosen else []
    return Chart(
        label=f"Loss that each LR of {stage.name} promised.",
        x=x,
        y=y,
        height=280,
        curves=curves,
        marks=marks,
        keys=(*keys, *(key for key in shown_keys([stage]) if key.kind == "diverged")),
    )


def _promise_mark(x: Axis, y: Axis, stage: StageView, probe: Record, worst: float) -> Mark:
    kind = kind_of(stage, probe)
    loss = worst if probe["forecast"] is None else probe["forecast"]
    shape = "cross" if kind == "diverged" else "dot"
    return mark(x, y, (probe["peak_lr"], loss), shape, kind, title_of(probe))


def _points(probe: Record, most: int) -> tuple[Array, Array]:
    """Return a probe's steps, from 1, and losses in at most so many parts."""
    steps, losses = loss_values(probe)
    middles, mean, _, _ = thinned(losses, most)
    # A log axis has no 0.
    return 1 + np.interp(middles, np.arange(len(steps)), steps), mean


def _applied(stage: StageView, end: float) -> tuple[Array, Array]:
    """Return steps and training loss of the applied stage, in even parts of log steps."""
    if stage.applied is None or stage.objective != "training":
        return np.zeros(0), np.zeros(0)
    losses = np.array(stage.applied["training_losses"], dtype=np.float64)[: int(end)]
    ends = np.geomspace(1, len(losses) + 1, APPLIED_POINTS)
    edges = np.unique(ends.round().astype(int)) - 1
    mean, _, _ = in_parts(losses, edges)
    return (edges[:-1] + edges[1:] + 1) / 2, mean


def _loss_axis(stage: StageView, series: Sequence[Array], applied: Array) -> Axis:
    """Return the axis that holds the stage's own losses; far promises lie on its edge."""
    known = np.concatenate([*series, applied])
    known = known[np.isfinite(known)]
    values = [*np.percentile(known, [0, 98]).tolist()] if len(known) else []
    if stage.outcome is not None:
        values.append(stage.outcome)
    promised = [probe["forecast"] for probe in stage.probes if probe["forecast"] is not None]
    values += without_far(promised, values)
    is_log = spans_decades(values)
    name = f"{stage.objective} loss"
    if all(len(probe["validation_losses"]) == 1 for probe in stage.probes):
        name = "loss (lines: training, points: validation)"
    return Axis.over(name + (" (log)" if is_log else ""), values, is_log=is_log)


def _keys(stage: StageView, *, looks_ahead: bool, is_applied: bool) -> tuple[Key, ...]:
    keys = [*shown_keys([stage])]
    if looks_ahead:
        keys.append(Key("promise shade1", "forecast for the stage's end", "diamond"))
        if stage.outcome is not None:
            keys.append(Key("came", "what came", "square"))
    if is_applied:
        keys.append(Key("training", "the stage as applied"))
    return tuple(keys)
