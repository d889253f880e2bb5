"""Tried LRs on Matplotlib's axes: what a run's picture and a found LR's plot share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ray_autolrs.extras import NeedsExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(figsize: tuple[float, float] = (7, 4)) -> Figure:
    """Return an empty figure, made without pyplot: no window, nothing global.

    Raises:
        ImportError: Matplotlib is missing; the message names what to install.
    """
    with NeedsExtra("plot"):
        from matplotlib.figure import Figure
    return Figure(figsize=figsize, layout="constrained")


def draw_tried_lrs(axes: Axes, tried: Sequence[tuple[float, float]], found: float | None) -> None:
    """Draw the LRs that were tried, and the one that was found.

    Args:
        axes: to draw on.
        tried: LRs, and the loss that each promised: NaN where it diverged.
        found: the LR; None before.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    judged = sorted((lr, loss) for lr, loss in tried if math.isfinite(loss))
    axes.plot([lr for lr, _ in judged], [loss for _, loss in judged], marker="o", label="probes")
    for lr, loss in tried:
        if not math.isfinite(loss):
            axes.axvline(lr, color="#c0392b", linestyle=":", label=f"{lr:.3g} diverged")
    if found is not None:
        axes.axvline(found, color="black", linestyle="--", label=f"found: {found:.3g}")
    axes.set(xlabel="learning rate", ylabel="loss", xscale="log")
    # Less than two decades would else have a label at each minor tick, one over the other.
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend()
