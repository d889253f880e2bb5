"""What was forecast for the stages' ends against what came."""

from __future__ import annotations

from ray_autolrs.report.charts.axes import Axis, number, spans_decades, without_far
from ray_autolrs.report.charts.chart import Chart, Curve, Key, Mark, Text, line, mark
from ray_autolrs.report.charts.probe_marks import edge_keys
from ray_autolrs.report.run_view import RunView

CELL = 4
"""Percent of the chart within which points lie together."""


def outcome_chart(view: RunView) -> Chart | None:
    """Return the chart; None where no stage that was applied had a forecast."""
    pairs = [
        (stage, *stage.forecast, stage.outcome)
        for stage in view.searched
        if stage.forecast is not None and stage.outcome is not None
    ]
    if not pairs:
        return None
    outcomes = [came for *_, came in pairs]
    losses = [*outcomes, *without_far([forecast for _, forecast, *_ in pairs], outcomes)]
    is_log = spans_decades(losses)
    suffix = " (log)" if is_log else ""
    x = Axis.over(f"forecast loss{suffix}", losses, is_log=is_log, margin=0.12)
    y = Axis.over(f"loss at the stage's end{suffix}", losses, is_log=is_log, margin=0.12)
    curves = [Curve(line(x, y, [x.low, x.high], [x.low, x.high]), "equal", "as forecast")]
    marks: list[Mark] = []
    for stage, forecast, std, came in pairs:
        title = f"{stage.name}: forecast {number(forecast)} ± {number(std, 2)}, came {number(came)}"
        path = line(x, y, [forecast - std, forecast + std], [came, came])
        curves.append(Curve(path, f"error {stage.objective}", title))
        marks.append(mark(x, y, (forecast, came), "dot", stage.objective, title))
    kinds = {stage.objective for stage, *_ in pairs}
    return Chart(
        label="Forecast loss against the loss that came, a point for each stage.",
        x=x,
        y=y,
        height=300,
        curves=curves,
        marks=marks,
        texts=_numbers([stage.number for stage, *_ in pairs], marks),
        keys=(
            *(Key(kind, f"{kind} loss, by stage", "dot") for kind in sorted(kinds)),
            Key("equal", "forecast = outcome"),
            *edge_keys(marks),
        ),
    )


def _numbers(stages: list[int], marks: list[Mark]) -> list[Text]:
    """Return the stages' numbers beside their points; points that lie together share a text."""
    together: dict[tuple[int, int], list[int]] = {}
    for number_, point in zip(stages, marks, strict=True):
        together.setdefault((round(point.x / CELL), round(point.y / CELL)), []).append(number_)
    places = dict(zip(stages, marks, strict=True))
    return [
        Text(places[first].x, places[first].y, ", ".join(map(str, [first, *others])))
        for first, *others in together.values()
    ]
