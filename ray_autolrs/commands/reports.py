"""``ray-autolrs report`` and ``ray-autolrs compare``: what runs have left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ray_autolrs.commands.command import Command, UsageError, as_usage_errors
from ray_autolrs.commands.run_comparison import compare_runs


@dataclass(frozen=True)
class Report(Command):
    """Write a run's report as one HTML page, and its picture or its table besides.

    For example:
        ray-autolrs report runs/digits
        ray-autolrs report runs/digits --watch
        ray-autolrs report runs/digits --picture digits.png --history digits.parquet
    """

    run_path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's folder: a local path or a URI."""

    output: str | None = None
    """Page to write; report.html in the run's folder by default."""

    watch: bool = False
    """Write it again whenever the run has gone on, until it ends or you press Ctrl-C."""

    interval_s: float = 5.0
    """Seconds between two looks of --watch."""

    picture: Path | None = None
    """Image of the LRs, the probes and the losses to write, too. Needs the extra 'plot'."""

    history: Path | None = None
    """Table of probes and evaluations to write, too: .parquet or .csv."""

    def run(self) -> None:
        from ray_autolrs.cluster import run_report

        with as_usage_errors():
            if not self.watch:
                print(f"written: {run_report.write_report(self.run_path, self.output)}")
            if self.picture is not None:
                run_report.write_picture(self.run_path, self.picture)
                print(f"written: {self.picture}")
            if self.history is not None:
                run_report.write_history(self.run_path, self.history)
                print(f"written: {self.history}")
            if self.watch:
                run_report.watch(
                    self.run_path,
                    self.output,
                    interval_s=self.interval_s,
                    on_write=lambda path: print(f"written: {path}", flush=True),
                )


@dataclass(frozen=True)
class Compare(Command):
    """Write a row for each run, its losses and its costs, and the settings that differ.

    For example:
        ray-autolrs compare runs/digits runs/digits-wsd
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folders of at least two runs, local paths or URIs, also of one that still goes on."""

    def run(self) -> None:
        from ray_autolrs.cluster.run_folder import RunFolder
        from ray_autolrs.cluster.run_report import read_run

        with as_usage_errors():
            if len(self.runs) < 2:
                raise UsageError(f"compare needs at least two runs, not {len(self.runs)}")
            found = [read_run(RunFolder.of_run(path)) for path in self.runs]
            print(compare_runs(found))
