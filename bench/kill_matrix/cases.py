"""A run's kills, and what is left of the run afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MICRO_BATCHES = 2
"""Forward passes of a training step, over all workers."""

HAPPENED = "happened"
"""Name of the files that tell of a kill: with its number."""

LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Case:
    """What happens to a run.

    Attributes:
        place: where.
        what: a signal's name, or what else; empty for a run that is left alone.
        counts: of each kill: at which call there, since the process has begun or the last kill,
            or after how many lines of the log.
    """

    place: str
    what: str
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has left.

    Attributes:
        kills: how many have happened.
        hung: whether the run, or its continuation, gave no sign of life for too long.
        forward_passes: in training, over all processes.
        left: ``outcome.json``; empty if the run did not end.
        calls: of a run that was left alone: how often a process has passed each place.
    """

    kills: int
    hung: bool
    forward_passes: int
    left: dict[str, Any] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether the run has ended."""
        return bool(self.left)

    def against(self, alone: Outcome) -> dict[str, Any]:
        """Compare it with the run that was left alone."""
        left, expected = self.left, alone.left
        keys = ("weights", "schedule")
        more = (self.forward_passes - alone.forward_passes) / MICRO_BATCHES
        # The end of a probe that a stage goes on from is not stored.
        lost_ends = expected["reused_steps"] - left.get("reused_steps", 0)
        return {
            "kills": self.kills,
            "hung": self.hung,
            "same_bits": self.is_whole and all(left[key] == expected[key] for key in keys),
            "same_probes": self.is_whole and left["probes"] == expected["probes"],
            "steps_again": more - lost_ends if self.is_whole else None,
            "told": left.get("told_lost_steps"),
        }


def outcome(folder: Path, *, hung: bool = False) -> Outcome:
    """Return what a run in a folder has left."""
    left, steps = folder / "outcome.json", folder / "steps"
    calls: dict[str, int] = {}
    for file in folder.glob("calls.*"):  # One of each process and place.
        place = file.name.split(".")[1]
        calls[place] = max(calls.get(place, 0), file.stat().st_size)
    return Outcome(
        kills=len([*folder.glob(f"{HAPPENED}-*")]),
        hung=hung,
        forward_passes=steps.stat().st_size if steps.exists() else 0,
        left=json.loads(left.read_text()) if left.exists() else {},
        calls=calls,
    )


def ends_in_time(
    folder: Path, is_alive: Callable[[], bool], timeout_s: float, look: Callable[[], None]
) -> bool:
    """Wait for a run's process, and tell whether it ended; not if it shows no life for too long.

    Signs of life are steps, lines of the log, and what it prints.

    Args:
        folder: of the run.
        is_alive: tells whether its process is there.
        timeout_s: longest time without a sign.
        look: called again and again meanwhile.
    """
    seen, changed_s = -1, time.monotonic()
    while is_alive():
        files = [*folder.glob("steps"), *folder.glob("output"), *folder.glob("*/events.jsonl")]
        size = sum(file.stat().st_size for file in files)
        if size != seen:
            seen, changed_s = size, time.monotonic()
        if time.monotonic() - changed_s > timeout_s:
            return False
        look()
        time.sleep(LOOK_S)
    return True
