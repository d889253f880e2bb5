"""The cache: one line a run, read and appended to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.measurement import RESULTS_FOLDER
from ray_autolrs.comparison.record import RunRecord

CACHE = RESULTS_FOLDER / "leave_one_out.jsonl"


class Key(NamedTuple):
    """What tells a run from others; a run with the same key is not made again."""

    task: str
    task_version: int
    method: str
    version: str
    lr: float | None
    seed: int
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedRun:
    """A run that was made.

    Attributes:
        task: its name in the suite.
        task_version: the suite's when it was made.
        group: of the task.
        version: the method's, a hash of its settings.
        found_lr: the learning rate (LR) that our method found and ended with.
        record: losses, steps, seconds.
        commit: of the tree.
    """

    task: str
    task_version: int
    group: str
    version: str
    found_lr: float | None = None
    record: RunRecord
    commit: str = ""

    @property
    def key(self) -> Key:
        """What tells the run from others."""
        run = self.record
        return Key(
            self.task, self.task_version, run.method, self.version, run.lr, run.seed, run.steps
        )

    @property
    def lowest(self) -> float:
        """Lowest validation loss of the evaluations; infinite if the run diverged."""
        run = self.record
        if run.diverged:
            return math.inf
        return min((loss for _, loss in run.curve), default=run.val_loss)

    def to_dict(self) -> dict[str, Any]:
        """Return the line of the cache."""
        return {
            "task": self.task,
            "task_version": self.task_version,
            "group": self.group,
            "version": self.version,
            "found_lr": self.found_lr,
            "lowest": self.lowest if math.isfinite(self.lowest) else None,
            **self.record.to_dict(),
            "commit": self.commit,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CachedRun:
        """Build a run from :meth:`to_dict`'s result."""
        own = ("task", "task_version", "group", "version", "found_lr", "commit")
        return cls(**{name: values[name] for name in own}, record=RunRecord.from_dict(values))


Cache = dict[Key, CachedRun]


def read_cache(path: Path) -> Cache:
    """Return the runs in a file, the newest of each key; none if there is no file.

    Raises:
        ValueError: a line that is not the last cannot be read. The last may be cut off, where a
            session was ended while it wrote.
    """
    cache: Cache = {}
    if not path.exists():
        return cache
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            run = CachedRun.from_dict(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is no run: {error}") from error
        cache[run.key] = run
    return cache


def append(path: Path, runs: Iterable[CachedRun]) -> None:
    """Write runs at a file's end, each on a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell() > 0:
            file.seek(-1, 2)
            if file.read(1) != b"\n":  # a line that was cut off
                whole = path.read_bytes()
                file.truncate(whole.rfind(b"\n") + 1)
        for run in runs:
            file.write((json.dumps(run.to_dict()) + "\n").encode())
