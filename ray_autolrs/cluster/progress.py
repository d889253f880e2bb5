"""What a person sees while a run goes on: a log line for each decision, and a progress bar.

The bar is shown on a terminal only.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ray_autolrs.algorithm.stages.messages import Apply
from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.cluster.background import Background
from ray_autolrs.cluster.search_actor import Status, describe_command
from ray_autolrs.report.costs import count_costs
from ray_autolrs.report.lines import describe

logger = logging.getLogger(__name__)

Poll = Callable[[int], tuple[list[Record], Status]]
"""From the number of records seen to (the newer records, the status)."""


class ProgressDisplay(Background):
    """Follows a run from a thread of its own, between entering and leaving the context.

    Args:
        poll: asks the search actor.
        total_steps: applied steps of the whole run, or None while its end is not known.
        interval_s: seconds between two polls.
    """

    def __init__(self, poll: Poll, total_steps: int | None, interval_s: float = 0.5) -> None:
        super().__init__("autolrs-progress")
        self._poll = poll
        self._total_steps = total_steps
        self._interval_s = interval_s
        self._seen = 0
        self._records: list[Record] = []

    def __enter__(self) -> ProgressDisplay:
        # What an earlier session of this run decided has been logged by it.
        self._records, _ = self._poll(0)
        self._seen = len(self._records)
        return super().__enter__()

    def _work(self) -> None:
        on_terminal = sys.stderr.isatty()
        bar: tqdm[Any] = tqdm(total=self._total_steps, unit="step", disable=not on_terminal)
        # Log lines go above the bar; without a bar they go where the user's handlers send them.
        above_bar = logging_redirect_tqdm() if on_terminal else contextlib.nullcontext()
        with bar, above_bar:
            while not self._stop.wait(self._interval_s):
                self._update(bar)
            self._update(bar)

    def _update(self, bar: tqdm[Any]) -> None:
        try:
            records, status = self._poll(self._seen)
        except Exception as error:  # The run itself reports what went wrong; a display must not.
            logger.debug("progress is unknown: %s", error)
            return
        self._seen += len(records)
        self._records += records
        for record in records:
            line = describe(record)
            if line is not None:
                logger.info("%s", line)
        if status.command is None:
            return
        applied = count_costs(self._records).apply_steps
        if isinstance(status.command, Apply):
            applied += status.steps_done
        bar.n = applied
        bar.set_postfix_str(f"{describe_command(status.command)} loss {status.loss:.4g}")
