"""A run's main picture, for a notebook: LR and loss over the steps, and what the LRs promised.

Drawn with Matplotlib, without pyplot: no window, nothing global.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ray_autolrs.lr_axes import draw_tried_lrs, new_figure
from ray_autolrs.report.charts.chart import thinned
from ray_autolrs.report.run_view import RunView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = 400


def main_picture(view: RunView) -> Figure:
    """Return a figure of three axes: LR over steps, loss over steps, promised loss over LR.

    Raises:
        ImportError: Matplotlib is missing.
    """
    figure = new_figure(figsize=(12, 4))
    lr, loss, promised = figure.subplots(1, 3)
    _draw_lr(lr, view)
    _draw_loss(loss, view)
    stage = next(iter(view.searched), None)
    if stage is not None:
        tried = [
            (p["peak_lr"], math.nan if p["forecast"] is None else p["forecast"])
            for p in stage.probes
        ]
        draw_tried_lrs(promised, tried, stage.lr)
        promised.set(title=f"What LRs promised in stage {stage.number}")
    figure.suptitle(view.name)
    return figure


def _draw_lr(axes: Axes, view: RunView) -> None:
    if view.schedule is not None:
        view.schedule.plot(ax=axes)
    probes = [probe for stage in view.searched for probe in stage.probes]
    axes.scatter(
        [probe["first_step"] + probe["steps"] for probe in probes],
        [probe["peak_lr"] for probe in probes],
        s=16,
        color="#1d91c0",
        label="probes",
    )
    axes.set(title="Learning rate", xlabel="step", ylabel="learning rate", yscale="log")
    highest = max((probe["peak_lr"] for probe in probes), default=None)
    if highest is not None:
        axes.set_ylim(bottom=max(axes.get_ylim()[0], highest / 1e4))
    axes.legend()


def _draw_loss(axes: Axes, view: RunView) -> None:
    middles, mean, _, _ = thinned(view.applied_losses, PARTS)
    axes.plot(middles, mean, color="#4a5560", linewidth=1, label="training")
    steps = [*view.evaluations]
    validation = [view.evaluations[step]["loss"] for step in steps]
    axes.plot(steps, np.array(validation, float), color="#b3400a", marker="o", label="validation")
    axes.set(title="Loss", xlabel="step", ylabel="loss")
    axes.legend()
