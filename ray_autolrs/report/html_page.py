"""A run's report: one HTML file that needs nothing else and asks nobody for anything.

The page's policy lets only its own style and script run, by their hashes; every text of a run is
escaped by the template engine.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from datetime import datetime, timezone
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from ray_autolrs.report.charts.axes import number
from ray_autolrs.report.charts.chart import Chart
from ray_autolrs.report.charts.cost_bars import Part, cost_bars, cost_parts
from ray_autolrs.report.charts.gp_charts import bound_chart, posterior_chart
from ray_autolrs.report.charts.lanes_chart import lanes_chart
from ray_autolrs.report.charts.loss_chart import loss_chart, points_per_probe
from ray_autolrs.report.charts.lr_chart import lr_chart
from ray_autolrs.report.charts.outcome_chart import outcome_chart
from ray_autolrs.report.charts.probe_marks import SHADES
from ray_autolrs.report.charts.stage_charts import probes_chart, promises_chart
from ray_autolrs.report.costs import count_costs
from ray_autolrs.report.headline import counted, doing, duration, figures, headline
from ray_autolrs.report.run_view import RunView, StageView
from ray_autolrs.report.surrogate import Picture, pictures
from ray_autolrs.report.wall_time import WallTime, wall_time
from ray_autolrs.settings_tree import leaves

MOST_STAGES = 40
"""Searched stages that have charts of their own, the last ones: they bound the page's size."""

MOST_PICTURES = 240
"""Pictures of the Gaussian process; where there would be more, each stage has its last."""

Frame = dict[str, Any]


def html_page(view: RunView, *, refresh_s: float | None = None) -> str:
    """Return the page.

    Args:
        view: the run.
        refresh_s: seconds after which the page reloads itself, while the run goes on; None never.
    """
    time = wall_time(view.records)
    lanes = lanes_chart(view)
    page = _environment().get_template("page.html.j2")
    return page.render(
        view=view,
        refresh_s=refresh_s,
        headline=headline(view),
        doing=doing(view),
        figures=figures(view, time),
        lr=lr_chart(view),
        loss=loss_chart(view),
        stages=_stage_frames(view),
        left_out=max(0, len(view.searched) - MOST_STAGES),
        outcomes=outcome_chart(view),
        table=_stage_rows(view),
        costs=_costs(view, time),
        lanes=lanes[0] if lanes else None,
        lanes_left_out=lanes[1] if lanes else 0,
        settings=_settings(view),
        sessions=_sessions(view),
        last_time=_utc(max((r["time"] for r in view.records if "time" in r), default=None)),
        shades=range(SHADES),
        **_inlined(),
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ray_autolrs.report", "page"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment


@functools.cache
def _inlined() -> dict[str, str]:
    """Return style and script, and the hashes by which the page's policy knows them."""
    folder = resources.files("ray_autolrs.report") / "page"
    style, script = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js"))
    return {
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _stage_frames(view: RunView) -> list[Frame]:
    shown = view.searched[-MOST_STAGES:]
    seen = {stage.number: pictures(stage, view.settings) for stage in shown}
    is_short = sum(map(len, seen.values())) > MOST_PICTURES
    frames = []
    for stage in shown:
        of_stage = seen[stage.number][-1:] if is_short else seen[stage.number]
        frames.append(
            {
                "stage": stage,
                "label": _stage_label(stage),
                "probes": probes_chart(stage, points_per_probe(view)),
                "promises": None if of_stage else promises_chart(stage),
                "pictures": [_picture_frame(stage, picture) for picture in of_stage],
            }
        )
    return frames


def _stage_label(stage: StageView) -> str:
    probes = counted(len(stage.probes), "probe")
    label = f"Stage {stage.number}: {probes} from step {number(stage.first_step)}"
    return label if stage.lr is None else f"{label}, LR {number(stage.lr, 3)} applied"


def _picture_frame(stage: StageView, picture: Picture) -> dict[str, Chart | str]:
    told, running = len(picture.told), len(picture.running)
    beside = f", {running} still running" if running else ""
    lr = number(picture.probe["peak_lr"], 3)
    asked = f"probe {picture.probe['index'] + 1}"
    return {
        "label": f"After {counted(told, 'result')}{beside}: {asked} at LR {lr}",
        "posterior": posterior_chart(stage, picture),
        "bound": bound_chart(stage, picture),
    }


def _stage_rows(view: RunView) -> list[list[str]]:
    rows = []
    for stage in view.stages:
        costs = count_costs(view.records, stage.number)
        forecast = stage.choice["forecast"] if stage.choice else None
        std = stage.choice["forecast_std"] if stage.choice else None
        rows.append(
            [
                stage.name,
                f"{number(stage.first_step)}",
                number(stage.lr, 3),
                stage.choice["reason"] if stage.choice else "–",
                stage.objective if stage.probes else "–",
                number(forecast) + (f" ± {number(std, 2)}" if std is not None else ""),
                number(stage.outcome) if stage.probes else "–",
                number(costs.probe_steps),
                number(costs.apply_steps),
                duration(costs.probe_s + costs.apply_s),
            ]
        )
    return rows


def _costs(view: RunView, time: WallTime) -> dict[str, Any]:
    parts = cost_parts(view, time)

    def bar(of: str, amounts: list[tuple[Part, float | None, str]]) -> Chart:
        bars = cost_bars([(p.kind, amount, f"{p.text}: {text}") for p, amount, text in amounts])
        return Chart(label=f"Where {of} went.", x=None, y=None, height=26, bars=bars)

    return {
        "parts": [
            (p, number(p.steps), "–" if p.seconds is None else duration(p.seconds)) for p in parts
        ],
        "steps": bar("steps", [(p, p.steps, number(p.steps)) for p in parts]),
        "seconds": bar("seconds", [(p, p.seconds, duration(p.seconds or 0)) for p in parts]),
    }


def _settings(view: RunView) -> list[tuple[str, str]]:
    """Return each setting by its path, without the types of parts that are not one's choice."""
    return [
        (path.removesuffix(".type"), value if isinstance(value, str) else json.dumps(value))
        for path, value in leaves(view.settings)
        if path != "type"
    ]


def _sessions(view: RunView) -> list[dict[str, Any]]:
    return [
        {
            "time": _utc(record["time"]),
            "workers": record["workers"] or "in process",
            "gpus": number(record["gpus"]),
            "versions": ", ".join(f"{name} {found}" for name, found in record["versions"].items()),
            "platform": record["platform"],
        }
        for record in view.records
        if record["kind"] == "session"
    ]


def _utc(time: float | None) -> str:
    if time is None:
        return "–"
    return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
