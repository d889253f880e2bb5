"""When what was done, and where: seconds by the clock, and the GPUs that were held for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ray_autolrs.algorithm.stages.records import Record


@dataclass(frozen=True, slots=True)
class Span:
    """Something that a lane did.

    Attributes:
        lane: who did it.
        begin_s: seconds since the run's first record.
        end_s: likewise.
        record: of kind ``probe`` or ``apply``.
    """

    lane: str
    begin_s: float
    end_s: float
    record: Record


@dataclass(frozen=True, slots=True)
class WallTime:
    """A run by the clock.

    Attributes:
        held_s: seconds in which a process trained the run, sessions added up.
        apply_s: of these, seconds in which stages were applied, evaluations included.
        probe_s: of these, seconds in which at least one probe ran.
        gpus: GPUs held at most; None where the log does not say.
        gpu_hours: GPUs times the hours that they were held; None likewise.
    """

    held_s: float
    apply_s: float
    probe_s: float
    gpus: float | None
    gpu_hours: float | None

    @property
    def other_s(self) -> float:
        """Start-up, snapshots, checkpoints, and the search itself."""
        return max(0.0, self.held_s - self.apply_s - self.probe_s)


def spans(records: Sequence[Record]) -> list[Span]:
    """Return what lanes did, in the log's order. A record is written when its work has ended."""
    begin = _begin(records)
    return [
        Span(
            str(record.get("lane", "all workers")),
            record["time"] - begin - record["wall_s"],
            record["time"] - begin,
            record,
        )
        for record in records
        if record["kind"] in ("probe", "apply") and "time" in record
    ]


def wall_time(records: Sequence[Record]) -> WallTime:
    """Return how long a run took, and what for."""
    sessions = _sessions(records)
    known = all(gpus is not None for _, gpus in sessions)
    done = spans(records)
    return WallTime(
        held_s=sum(seconds for seconds, _ in sessions),
        apply_s=_covered(span for span in done if span.record["kind"] == "apply"),
        probe_s=_covered(span for span in done if span.record["kind"] == "probe"),
        gpus=max((gpus or 0 for _, gpus in sessions), default=0) if known else None,
        gpu_hours=sum(s * (gpus or 0) for s, gpus in sessions) / 3600 if known else None,
    )


def _begin(records: Sequence[Record]) -> float:
    return float(next((record["time"] for record in records if "time" in record), 0.0))


def _sessions(records: Sequence[Record]) -> list[tuple[float, float | None]]:
    """Return seconds and GPUs of each session: from its record to the last before the next."""
    sessions: list[list[float]] = []
    gpus: list[float | None] = []
    for record in records:
        if "time" not in record:
            continue
        if record["kind"] == "session" or not sessions:
            sessions.append([record["time"], record["time"]])
            gpus.append(record.get("gpus"))
        sessions[-1][1] = max(sessions[-1][1], record["time"])
    return [(end - begin, held) for (begin, end), held in zip(sessions, gpus, strict=True)]


def _covered(done: Iterable[Span]) -> float:
    """Return the seconds in which at least one of the spans goes on."""
    covered = end = 0.0
    for span in sorted(done, key=lambda span: span.begin_s):
        covered += max(0.0, span.end_s - max(span.begin_s, end))
        end = max(end, span.end_s)
    return covered
