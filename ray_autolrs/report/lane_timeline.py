"""Which lane ran which probe of a stage, and when: a picture in text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ray_autolrs.algorithm.stages.records import Record

AHEAD = "+"
"""Drawn for a probe that was run before a search asked for it, if one ever did."""


def lane_timeline(records: Sequence[Record], stage: int, *, width: int = 60) -> str:
    """Return one line for each lane, from the first probe's start to the last one's end.

    A probe is drawn with the last digit of its number, over the time that it took.

    Args:
        records: a run's log.
        stage: number of a stage that was searched.
        width: characters for the whole search.

    Raises:
        ValueError: no probe of the stage is in the log.
    """
    bars = [
        (record["lane"], record["time"] - record["wall_s"], record["time"], _mark(record))
        for record in records
        if record.get("stage") == stage
        and record["kind"] in ("probe", "foreseen")
        and not record.get("foreseen", False)
    ]
    if not bars:
        raise ValueError(f"stage={stage} has no probes in the log; name a stage that was searched")
    began, ended = min(bar[1] for bar in bars), max(bar[2] for bar in bars)
    lanes: dict[str, list[str]] = {}
    for lane, start, end, mark in bars:
        first = round((start - began) / (ended - began) * (width - 1))
        last = round((end - began) / (ended - began) * (width - 1))
        line = lanes.setdefault(lane, [" "] * width)
        line[first : last + 1] = mark * (last + 1 - first)
    most = _most_at_once([(start, end) for _, start, end, _ in bars])
    head = f"stage {stage}: {len(bars)} probes in {ended - began:.3g} s, {most} at once at most"
    wide = max(map(len, lanes))
    rows = [f"{lane:<{wide}} |{''.join(lanes[lane])}|" for lane in sorted(lanes, key=_in_order)]
    return "\n".join([head, *rows])


def _mark(record: Record) -> str:
    return AHEAD if record["kind"] == "foreseen" else str(record["index"] + 1)[-1]


def _most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    return max(sum(start <= at < end for start, end in spans) for at, _ in spans)


def _in_order(lane: str) -> tuple[str, int]:
    """Sort actor-2 before actor-10, and the workers last.

    >>> sorted(["worker-0", "actor-10", "actor-2"], key=_in_order)
    ['actor-2', 'actor-10', 'worker-0']
    """
    number = re.search(r"\d+$", lane)
    return re.sub(r"\d+$", "", lane), int(number[0]) if number else 0
