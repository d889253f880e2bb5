"""What a run found, in a sentence and a few figures."""

from __future__ import annotations

from dataclasses import dataclass

from ray_autolrs.report.charts.axes import number
from ray_autolrs.report.run_view import RunView
from ray_autolrs.report.wall_time import WallTime


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with what it says and a remark."""

    name: str
    value: str
    remark: str = ""


def headline(view: RunView) -> str:
    """Return what the run found, or what it is doing."""
    tried = sum(len(stage.probes) for stage in view.searched)
    interval = view.lr_interval
    if interval is None:
        return f"Searching the first learning rate: {counted(tried, 'probe')} so far."
    found = (
        f"LR {number(interval[0], 3)}"
        if interval[0] == interval[1]
        else f"LRs from {number(interval[0], 3)} to {number(interval[1], 3)}"
    )
    search = f"found with {counted(tried, 'probe')} in {counted(len(view.searched), 'stage')}"
    step = view.saved_step
    if step is None:
        return f"{found}, {search}; no stage has ended yet."
    loss = number(view.evaluations[step]["loss"])
    end = "the saved model has" if view.finished else "so far the model has"
    return f"{found}, {search}; {end} validation loss {loss} after {number(step)} steps."


def doing(view: RunView) -> str | None:
    """Return what the run does now; None where it is not being trained."""
    if view.live is None or view.finished is not None:
        return None
    done, steps = number(view.live["steps_done"]), number(view.live["steps"])
    return f"Now: {view.live['text']}" + (
        f", {done} of {steps} steps." if view.live["steps"] else "."
    )


def figures(view: RunView, time: WallTime) -> list[Figure]:
    """Return the run's figures, the most wanted first."""
    costs, interval, step = view.costs, view.lr_interval, view.saved_step
    shown = []
    if interval is not None:
        low, high = (number(lr, 3) for lr in interval)
        remark = "times the schedule's shape" if low == high else "lowest to highest, by stage"
        shown.append(Figure("peak LR", low if low == high else f"{low} – {high}", remark))
    if step is not None:
        for name, value in view.evaluations[step].items():
            shown.append(Figure(f"validation {name}", number(value), f"at step {number(step)}"))
    total = number(view.total_steps)
    shown.append(Figure("applied steps", number(costs.apply_steps), f"of {total}"))
    searched = number(costs.probe_steps)
    remark = f"{100 * costs.search_fraction:.1f}% of the applied" if costs.apply_steps else ""
    shown.append(Figure("search steps", searched, remark))
    shown.append(Figure("time", duration(time.held_s), "trained by the clock"))
    if time.gpu_hours is not None:
        remark = "on CPUs" if not time.gpus else f"{number(time.gpus)} held"
        shown.append(Figure("GPU hours", number(time.gpu_hours, 3), remark))
    return shown


def duration(seconds: float) -> str:
    """Return a time as text.

    >>> duration(42.3), duration(754), duration(9000)
    ('42 s', '12 min 34 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(amount: int, what: str) -> str:
    """Return an amount with its noun.

    >>> counted(1, "probe"), counted(3, "probe")
    ('1 probe', '3 probes')
    """
    return f"{amount} {what}" + ("" if amount == 1 else "s")
