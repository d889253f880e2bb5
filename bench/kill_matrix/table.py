"""The table of all runs that were killed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ray_autolrs.comparison.table import markdown


def table(runs: Iterable[dict[str, Any]]) -> str:
    """Return a table with a row for each kind of kill, in the order of their first runs."""
    kinds: dict[tuple[bool, str, str], list[dict[str, Any]]] = {}
    for run in runs:
        kinds.setdefault((run["on_ray"], run["what"], run["place"]), []).append(run)
    return markdown([_row(*kind, of_kind) for kind, of_kind in sorted(kinds.items(), key=_order)])


def _order(item: tuple[tuple[bool, str, str], Any]) -> bool:
    (on_ray, _, _), _ = item
    return on_ray


def _row(on_ray: bool, what: str, place: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    killed, ended = [r for r in runs if r["kills"] > 0], [r for r in runs if not r["hung"]]
    return {
        "kind": f"{what} in {place}" if what.isupper() else f"{place}: {what}",
        "on": "Ray" if on_ray else "one process",
        "runs": len(runs),
        "kills": sum(run["kills"] for run in runs),
        "hung": sum(run["hung"] for run in runs),
        "other bits": sum(not run["same_bits"] for run in ended),
        "probes": sum(not run["same_probes"] for run in ended),
        "steps again": _most(killed, "steps_again"),
        "told": _most(killed, "told"),
    }


def _most(runs: list[dict[str, Any]], name: str) -> float | str:
    values = [run[name] / run["kills"] for run in runs if run[name] is not None]
    return round(max(values), 1) if values else ""
