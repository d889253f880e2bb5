"""What the Gaussian process saw before a probe: its mean and band, and what it minimised."""

from __future__ import annotations

import numpy as np

from ray_autolrs.report.charts.axes import Axis, number
from ray_autolrs.report.charts.chart import Chart, Curve, Key, area, line, mark
from ray_autolrs.report.charts.probe_marks import kind_of, title_of
from ray_autolrs.report.run_view import StageView
from ray_autolrs.report.surrogate import Picture

BAND = 2.0
"""Standard deviations of the band on either side of the mean."""


def posterior_chart(stage: StageView, picture: Picture) -> Chart:
    """Return the mean, the band and the forecasts that it knew."""
    low, high = (picture.mean + sign * BAND * picture.std for sign in (-1, 1))
    told = [probe["forecast"] for probe in picture.told if probe["forecast"] is not None]
    x = Axis.over("learning rate (log)", picture.lrs, is_log=True, margin=0.0)
    y = Axis.over("forecast loss", [*low, *high, *told])
    asked = picture.probe["peak_lr"]
    curves = [
        Curve(area(x, y, picture.lrs, low, high), "band"),
        Curve(line(x, y, picture.lrs, picture.mean), "mean", "mean of the Gaussian process"),
        Curve(line(x, y, [asked, asked], [y.low, y.high]), "choice", title_of(picture.probe)),
    ]
    marks = []
    for probe in picture.told:
        kind, worst = kind_of(stage, probe), max(told, default=float(y.high))
        shape, loss = ("cross", worst) if probe["forecast"] is None else ("dot", probe["forecast"])
        marks.append(mark(x, y, (probe["peak_lr"], loss), shape, kind, title_of(probe)))
    if picture.probe["forecast"] is not None:
        at = (asked, picture.probe["forecast"])
        marks.append(mark(x, y, at, "ring", "came", f"then: {title_of(picture.probe)}"))
    return Chart(
        label=f"Gaussian process of {stage.name} before probe {picture.probe['index'] + 1}.",
        x=x,
        y=y,
        height=240,
        curves=curves,
        marks=marks,
        keys=(
            Key("mean", f"mean μ, band ±{BAND:g}σ"),
            Key("choice", f"LR asked next: {number(asked, 3)}"),
            Key("came", "what it then promised", "ring"),
        ),
        is_shaded=True,
    )


def bound_chart(stage: StageView, picture: Picture) -> Chart:
    """Return the lower confidence bound, and its least value where nothing was tried."""
    x = Axis.over("learning rate (log)", picture.lrs, is_log=True, margin=0.0)
    y = Axis.over("μ − κσ", picture.bound)
    asked = picture.probe["peak_lr"]
    there = float(np.interp(np.log(asked), np.log(picture.lrs), picture.bound))
    return Chart(
        label=f"Lower confidence bound of {stage.name}, which the next LR minimises.",
        x=x,
        y=y,
        height=130,
        curves=[
            Curve(line(x, y, picture.lrs, picture.bound), "bound", "lower confidence bound"),
            Curve(line(x, y, [asked, asked], [y.low, y.high]), "choice"),
        ],
        marks=[mark(x, y, (asked, there), "dot", "asked", f"least at LR {number(asked, 3)}")],
        keys=(Key("bound", f"acquisition: μ − κσ, κ = {number(picture.kappa)}"),),
    )
