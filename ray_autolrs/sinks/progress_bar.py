"""The progress bar, on a terminal and in a notebook."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ray_autolrs.algorithm.stages.messages import Apply
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.report.costs import count_costs
from ray_autolrs.sinks.sink import Sink, Status, describe_command


class ProgressBar(Sink):
    """Shows the applied steps, and what is going on. Log lines go above it."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._bar: tqdm[Any] | None = None
        self._open = contextlib.ExitStack()

    def start(self, past: list[Record], total_steps: int | None) -> None:
        self._records = [*past]
        on_terminal = sys.stderr.isatty()
        bar = tqdm(total=total_steps, unit="step", disable=not (on_terminal or in_notebook()))
        self._bar = self._open.enter_context(bar)
        if on_terminal:  # Elsewhere they go where the user's handlers send them.
            self._open.enter_context(logging_redirect_tqdm())

    def record(self, record: Record) -> None:
        self._records.append(record)

    def progress(self, status: Status) -> None:
        if status.command is None or self._bar is None:
            return
        applied = count_costs(self._records).apply_steps
        if isinstance(status.command, Apply):
            applied += status.steps_done
        self._bar.n = applied
        self._bar.set_postfix_str(f"{describe_command(status.command)} loss {status.loss:.4g}")

    def close(self) -> None:
        self._open.close()


def in_notebook() -> bool:
    """Return whether this process is a notebook's kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
