"""A kill, and what is left of the run afterwards."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MICRO_BATCHES = 2
"""Forward passes of a training step, over all workers."""


@dataclass(frozen=True, slots=True)
class Case:
    """What happens to a run.

    Attributes:
        place: where.
        what: a signal's name, or what else.
        count: at which call there, or after how many lines of the log.
    """

    place: str
    what: str
    count: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has left.

    Attributes:
        happened: whether the kill has happened before the run's end.
        hung: whether the run, or its continuation, did not end in time.
        forward_passes: in training, over all processes.
        left: ``outcome.json``; empty if the run did not end.
        calls: of a run that was left alone: how often each place is passed.
    """

    happened: bool
    hung: bool
    forward_passes: int
    left: dict[str, Any] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether the run has ended."""
        return bool(self.left)

    @property
    def told_lost_steps(self) -> int:
        """Steps that the run's own report says were lost."""
        return int(self.left.get("told_lost_steps", -1))

    def against(self, alone: Outcome) -> dict[str, Any]:
        """Compare it with the run that was left alone."""
        left, expected = self.left, alone.left
        keys = ("weights", "schedule")
        more = (self.forward_passes - alone.forward_passes) / MICRO_BATCHES
        # The end of a probe that a stage goes on from is not stored.
        lost_ends = expected["reused_steps"] - left.get("reused_steps", 0)
        return {
            "same_bits": self.is_whole and all(left[key] == expected[key] for key in keys),
            "same_probes": self.is_whole and left["probes"] == expected["probes"],
            "steps_again": more - lost_ends,
        }


def outcome(folder: Path, *, hung: bool = False, calls: dict[str, int] | None = None) -> Outcome:
    """Return what a run in a folder has left."""
    left, steps = folder / "outcome.json", folder / "steps"
    return Outcome(
        happened=(folder / "happened").exists(),
        hung=hung,
        forward_passes=steps.stat().st_size if steps.exists() else 0,
        left=json.loads(left.read_text()) if left.exists() else {},
        calls=calls or {},
    )
