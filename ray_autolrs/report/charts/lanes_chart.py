"""Who did what when: a row for each lane."""

from __future__ import annotations

from ray_autolrs.report.charts.axes import Axis, number
from ray_autolrs.report.charts.chart import Bar, Chart, Key, Text
from ray_autolrs.report.charts.probe_marks import title_of
from ray_autolrs.report.run_view import RunView
from ray_autolrs.report.wall_time import Span, spans

ROW_PX = 44

MOST_ROWS = 32
"""Lanes that are drawn; a page of more says how many are left out."""


def lanes_chart(view: RunView) -> tuple[Chart, int] | None:
    """Return the chart and the number of lanes left out; None where nothing was done yet."""
    done = spans(view.records)
    if not done:
        return None
    lanes = sorted({span.lane for span in done}, key=lambda lane: (lane != "all workers", lane))
    shown = lanes[:MOST_ROWS]
    unit, factor = time_unit(max(span.end_s for span in done))
    end = max(span.end_s for span in done) / factor
    x = Axis.over(f"{unit} since the run began", [0.0, end], margin=0.0)
    rows = {lane: 100 * place / len(shown) for place, lane in enumerate(shown)}
    height = 100 / len(shown)
    bars = []
    for span in done:
        if span.lane in rows:
            begin, to = (100 * float(x.at([s / factor])[0]) for s in (span.begin_s, span.end_s))
            begin = max(0.0, begin)
            top = rows[span.lane] + 0.45 * height
            bars.append(
                Bar(
                    round(begin, 3),
                    round(top, 2),
                    round(max(to - begin, 0.1), 3),
                    round(0.45 * height, 2),
                    _kind(span),
                    _title(span),
                )
            )
    return (
        Chart(
            label="When each lane ran probes and applied stages.",
            x=x,
            y=None,
            height=ROW_PX * len(shown) + 8,
            bars=bars,
            texts=[Text(0.0, top + 0.22 * height, lane, "lane") for lane, top in rows.items()],
            keys=(
                Key("cost-apply", "stage applied", "bar"),
                Key("cost-probe", "probe", "bar"),
                Key("cost-lost", "diverged", "bar"),
            ),
        ),
        len(lanes) - len(shown),
    )


def time_unit(seconds: float) -> tuple[str, float]:
    """Return the unit for times up to so many seconds, and its seconds.

    >>> time_unit(90), time_unit(600), time_unit(100_000)
    (('seconds', 1.0), ('minutes', 60.0), ('hours', 3600.0))
    """
    if seconds <= 180:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds <= 3 * 3600 else ("hours", 3600.0)


def _kind(span: Span) -> str:
    if span.record["diverged"]:
        return "cost-lost"
    return "cost-apply" if span.record["kind"] == "apply" else "cost-probe"


def _title(span: Span) -> str:
    record = span.record
    seconds = f"{number(record['wall_s'], 3)} s"
    if record["kind"] == "probe":
        return f"{title_of(record)} ({seconds})"
    name = f"stage {record['stage']}" if record["stage"] else "warm-up"
    end = "diverged" if record["diverged"] else "applied"
    return f"{name}: {end}, {number(record['steps'])} steps ({seconds})"
