"""``ray-autolrs schedule``: a schedule that a run has found."""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from ray_autolrs.commands.command import Command, as_usage_errors
from ray_autolrs.schedule import LRSchedule

SCHEDULE_FILE = "schedule.json"


@dataclass(frozen=True)
class Show:
    """Write a line for each segment: its steps, its LRs and its shape.

    For example:
        ray-autolrs schedule show runs/digits
        ray-autolrs schedule show runs/digits/schedule.json
    """

    path: tyro.conf.Positional[Path]
    """A run's folder, or its schedule.json."""

    def run(self, schedule: LRSchedule) -> None:
        for segment in schedule.segments:
            first, last = segment.first_step, segment.last_step
            print(
                f"steps {first}-{last}: lr {schedule.lr_at(first):.4g} to "
                f"{schedule.lr_at(last):.4g}, peak {segment.peak_lr:.4g}, {segment.shape.name}"
            )
        averaging = schedule.averaging
        print(f"averaging: {averaging if averaging is not None else 'none'}")


@dataclass(frozen=True)
class Export:
    """Write the LR of each step as CSV, for a loop that knows nothing of ray_autolrs.

    For example:
        ray-autolrs schedule export runs/digits lrs.csv
        ray-autolrs schedule export runs/digits
    """

    path: tyro.conf.Positional[Path]
    """A run's folder, or its schedule.json."""

    target: tyro.conf.Positional[Path | None] = None
    """File to write; the standard output by default."""

    every: int = 1
    """Steps from one row to the next."""

    def run(self, schedule: LRSchedule) -> None:
        with as_usage_errors():
            if self.every < 1:
                raise ValueError(f"--every {self.every} must be at least 1")
            rows = [
                (step, repr(schedule.lr_at(step)))
                for step in range(0, schedule.total_steps, self.every)
            ]
            if self.target is None:
                csv.writer(sys.stdout, lineterminator="\n").writerows([("step", "lr"), *rows])
                return
            with self.target.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([("step", "lr"), *rows])
        print(f"written: {self.target}")


@dataclass(frozen=True)
class Plot:
    """Draw the LR over the steps. Needs the extra 'plot'.

    For example:
        ray-autolrs schedule plot runs/digits lrs.png
    """

    path: tyro.conf.Positional[Path]
    """A run's folder, or its schedule.json."""

    target: tyro.conf.Positional[Path]
    """Image to write; its suffix gives the format."""

    def run(self, schedule: LRSchedule) -> None:
        with as_usage_errors():
            schedule.plot(self.target)
        print(f"written: {self.target}")


@dataclass(frozen=True)
class Schedule(Command):
    """Look at a schedule that a run has found, draw it, or take it elsewhere."""

    action: tyro.conf.OmitSubcommandPrefixes[Show | Export | Plot]

    def run(self) -> None:
        path = self.action.path
        with as_usage_errors():
            schedule = LRSchedule.load(path / SCHEDULE_FILE if path.is_dir() else path)
        self.action.run(schedule)
