"""The loss over the run's steps: training, validation, probes, what was forecast and what came."""

from __future__ import annotations

import numpy as np

from ray_autolrs.algorithm.forecast.forecaster import Array
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.report.charts.axes import Axis, number, spans_decades
from ray_autolrs.report.charts.chart import Chart, Curve, Key, Mark, area, line, mark, thinned
from ray_autolrs.report.charts.probe_marks import edge_keys, kind_of, title_of
from ray_autolrs.report.run_view import RunView

PARTS = 300
"""Parts of the run that the training loss is the mean of: about one for each three pixels."""

PROBE_POINTS = 20_000
"""Points that all probes' curves have together, in each chart: they bound the page's size."""

OUTLIERS = 0.5
"""Percent of the training loss's highest means that may leave the chart."""


def loss_chart(view: RunView) -> Chart:
    """Return the chart."""
    middles, mean, low, high = thinned(view.applied_losses, PARTS)
    validated = {
        step: means["loss"]
        for step, means in view.evaluations.items()
        if means.get("loss") is not None
    }
    forecast = [stage for stage in view.searched if stage.forecast and stage.steps]
    ends = [stage.outcome for stage in forecast if stage.outcome is not None]
    y = _axis(mean, [*validated.values(), *ends, *(loss for _, loss in view.live_losses)])
    x = Axis.over("step", [0, view.total_steps], margin=0.0)
    curves = [*_probe_curves(view, x, y)]
    curves.append(Curve(area(x, y, middles, low, high), "training-band"))
    curves.append(Curve(line(x, y, middles, mean), "training", "training loss"))
    curves.append(Curve(line(x, y, validated, validated.values()), "validation"))
    if view.live_losses:
        steps, losses = zip(*view.live_losses, strict=True)
        curves.append(Curve(line(x, y, steps, losses), "training", "training loss, so far"))
    marks = [
        mark(x, y, (step, loss), "dot", "validation", f"validation loss {number(loss)} at {step:,}")
        for step, loss in validated.items()
    ]
    for stage in forecast:
        assert stage.forecast is not None
        assert stage.steps is not None
        end = stage.first_step + stage.steps
        promised = f"{stage.name}: forecast {stage.objective} loss {number(stage.forecast[0])}"
        curve, point = _promise(x, y, stage.probes[_index(stage.choice)], end, promised)
        curves.append(curve)
        marks.append(point)
        if stage.outcome is not None:
            came = f"{promised}, came {number(stage.outcome)}"
            marks.append(mark(x, y, (end, stage.outcome), "ring", "came", came))
    keys = [
        Key("training", "training (mean; band: least to most)"),
        Key("validation", "validation", "dot"),
    ]
    if forecast:
        keys += [
            Key("promise", "forecast for the LR applied", "diamond"),
            Key("came", "what came", "ring"),
        ]
    if view.searched:
        keys.append(Key("probe shade2", "probes"))
    return Chart(
        label="Loss over the applied steps: training, validation, probes and forecasts.",
        x=x,
        y=y,
        height=320,
        curves=curves,
        marks=marks,
        keys=(*keys, *edge_keys(marks)),
    )


def loss_values(probe: Record) -> tuple[Array, Array]:
    """Return the loss series that a probe is judged by, and the steps done at each value.

    A probe with too few validation losses for a line has its training losses instead.
    """
    training = np.array(probe["training_losses"], dtype=np.float64)
    validation = np.array(probe["validation_losses"], dtype=np.float64)
    if len(validation) < 2:
        return np.arange(len(training), dtype=np.float64), training
    each = max(1, probe["segment"]["last_step"] + 1 - probe["first_step"]) / max(1, probe["evals"])
    return each * np.arange(1, len(validation) + 1), validation


def points_per_probe(view: RunView) -> int:
    """Return how many points a probe's curve may have."""
    probes = sum(len(stage.probes) for stage in view.searched)
    return max(4, min(60, PROBE_POINTS // max(1, probes)))


def course(probe: Record, end: float) -> tuple[list[float], list[float]]:
    """Return the steps, from the probe's first, and the losses of its forecast's course."""
    losses = probe.get("forecast_course") or []
    if losses:
        return np.linspace(probe["steps"], end, len(losses)).tolist(), losses
    series = [loss for loss in loss_values(probe)[1] if np.isfinite(loss)]
    if not series or probe["forecast"] is None:
        return [], []
    return [probe["steps"], end], [series[-1], probe["forecast"]]


def _axis(mean: Array, others: list[float]) -> Axis:
    """Return the loss's axis: probes and forecasts may leave it."""
    known = mean[np.isfinite(mean)]
    highest = [float(np.percentile(known, 100 - OUTLIERS))] if len(known) else []
    values = [*known[known <= (highest[0] if highest else 0)].tolist(), *highest, *others]
    is_log = spans_decades(values)
    return Axis.over("loss (log)" if is_log else "loss", values, is_log=is_log)


def _probe_curves(view: RunView, x: Axis, y: Axis) -> list[Curve]:
    most, curves = points_per_probe(view), []
    for stage in view.searched:
        for probe in stage.probes:
            steps, losses = loss_values(probe)
            middles, mean, _, _ = thinned(losses, most)
            at = probe["first_step"] + np.interp(middles, np.arange(len(steps)), steps)
            title = title_of(probe)
            curves.append(Curve(line(x, y, at, mean), f"probe {kind_of(stage, probe)}", title))
    return curves


def _promise(x: Axis, y: Axis, probe: Record, end: int, title: str) -> tuple[Curve, Mark]:
    steps, losses = course(probe, end - probe["first_step"])
    at = [probe["first_step"] + step for step in steps]
    point = mark(x, y, (end, probe["forecast"]), "diamond", "promise", title)
    return Curve(line(x, y, at, losses), "promise", title), point


def _index(choice: Record | None) -> int:
    assert choice is not None
    return int(choice["index"])
