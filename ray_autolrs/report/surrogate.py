"""What the Gaussian process saw before each probe, drawn again from the log.

Each probe's record keeps the parameters of the fit that asked for it, and how many results it was
shown. Together with those results they give the posterior in closed form, without a fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ray_autolrs.algorithm.forecast.forecaster import Array
from ray_autolrs.algorithm.search.gp_posterior import GPParameters, posterior_of, standardised
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.report.run_view import StageView

POINTS = 61
"""Places across the interval that a picture has. Ours."""

_PARAMETERS = {each.name for each in fields(GPParameters)}


@dataclass(frozen=True, slots=True)
class Picture:
    """The posterior before a probe, in units of the loss.

    Attributes:
        probe: the record of the probe that was asked from it.
        told: the records that it knew.
        running: the LRs that were asked and not told.
        lrs: shape (n,), even in log LR.
        mean: μ, shape (n,).
        std: σ, shape (n,).
        bound: what was minimised, μ − κσ, shape (n,).
        kappa: κ.
    """

    probe: Record
    told: tuple[Record, ...]
    running: tuple[float, ...]
    lrs: Array
    mean: Array
    std: Array
    bound: Array
    kappa: float


def pictures(stage: StageView, settings: dict[str, Any]) -> list[Picture]:
    """Return a picture for each probe of a stage that a Gaussian process asked for.

    Args:
        stage: the stage.
        settings: of the run, as ``config.json`` holds them.
    """
    interval, kappa = settings.get("lr"), settings.get("search", {}).get("kappa")
    if not isinstance(interval, list) or kappa is None:
        return []
    return [
        _picture(stage, probe, interval, float(kappa))
        for probe in stage.probes
        if set(probe.get("explanation", {})) == _PARAMETERS
    ]


def _picture(stage: StageView, probe: Record, interval: list[float], kappa: float) -> Picture:
    low, high = map(math.log, interval)
    shown = probe["informed_by"]
    told, running = stage.probes[:shown], stage.probes[shown : probe["index"]]

    def places(records: tuple[Record, ...]) -> list[float]:
        return [(math.log(record["peak_lr"]) - low) / (high - low) for record in records]

    y, origin, unit = standardised([record["forecast"] for record in told])
    at = np.linspace(0.0, 1.0, POINTS)
    parameters = GPParameters(**probe["explanation"])
    mean, std = posterior_of(parameters, places(told), y, places(running), at)
    return Picture(
        probe=probe,
        told=told,
        running=tuple(record["peak_lr"] for record in running),
        lrs=np.exp(low + at * (high - low)),
        mean=origin + unit * mean,
        std=unit * std,
        bound=origin + unit * (mean - kappa * std),
        kappa=kappa,
    )
