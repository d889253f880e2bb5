"""How a probe looks wherever it is drawn: its shade says what it promised in its stage."""

from __future__ import annotations

from collections.abc import Iterable

from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.report.charts.axes import number
from ray_autolrs.report.charts.chart import Key, Mark
from ray_autolrs.report.run_view import StageView

SHADES = 6
"""Shades from the best promise of a stage to the worst; page.css gives each a colour."""

DIVERGED = Key("diverged", "diverged", "cross")
BEYOND = Key("outside", "faded at the edge: beyond the axis", "dot")
CHOSEN = Key("chosen", "probe whose LR was applied", "ring")


def kind_of(stage: StageView, probe: Record) -> str:
    """Return the CSS class of a probe's shade."""
    shade = stage.shade(probe, SHADES)
    return "diverged" if shade is None else f"shade{shade}"


def is_chosen(stage: StageView, probe: Record) -> bool:
    """Return whether the stage is applied with just this probe's LR."""
    return stage.choice is not None and stage.choice["index"] == probe["index"]


def title_of(probe: Record) -> str:
    """Return a probe in words."""
    head = f"stage {probe['stage']}, probe {probe['index'] + 1}: LR {number(probe['peak_lr'], 3)}"
    if probe["forecast"] is None:
        return f"{head}, diverged after {number(probe['steps'])} steps"
    loss = f"{probe['objective']} loss {number(probe['forecast'])}"
    if probe["forecast_std"] is None:
        return f"{head}, {loss} after {number(probe['steps'])} steps"
    doubt = "" if probe.get("trusted", True) else ", which the forecaster does not trust"
    return f"{head}, promises {loss} ± {number(probe['forecast_std'], 2)}{doubt}"


def edge_keys(marks: Iterable[Mark]) -> tuple[Key, ...]:
    """Return the legend's entry for marks that lie beyond the axes, if there is one."""
    return (BEYOND,) if any("outside" in mark.kind for mark in marks) else ()


def shown_keys(stages: list[StageView]) -> tuple[Key, ...]:
    """Return the legend's entries for the marks of these stages' probes."""
    probes = [(stage, probe) for stage in stages for probe in stage.probes]
    keys = []
    if any(is_chosen(stage, probe) for stage, probe in probes):
        keys.append(CHOSEN)
    if any(probe["forecast"] is None for _, probe in probes):
        keys.append(DIVERGED)
    return tuple(keys)
