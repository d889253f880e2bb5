"""Tells a run's sinks what happens, while it goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from operator import methodcaller

from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.cluster.background import Background
from ray_autolrs.sinks.sink import Sink, Status

logger = logging.getLogger(__name__)

Poll = Callable[[int], tuple[list[Record], Status]]
"""From the number of records seen to (the newer records, the status)."""


class SinkFeed(Background):
    """Follows a run from a thread of its own, between entering and leaving the context.

    Args:
        poll: asks the search actor.
        total_steps: applied steps of the whole run, or None while its end is not known.
        sinks: who is told; one that raises is told nothing more.
        interval_s: seconds between two polls.
    """

    def __init__(
        self, poll: Poll, total_steps: int | None, sinks: Sequence[Sink], interval_s: float = 0.5
    ) -> None:
        super().__init__("autolrs-sinks")
        self._poll = poll
        self._total_steps = total_steps
        self._sinks = list(sinks)
        self._interval_s = interval_s
        self._past: list[Record] = []
        self._seen = 0

    def __enter__(self) -> SinkFeed:
        # What an earlier session of this run decided has been told by it.
        self._past, _ = self._poll(0)
        self._seen = len(self._past)
        return super().__enter__()

    def _work(self) -> None:
        self._tell(methodcaller("start", [*self._past], self._total_steps))
        while not self._stop.wait(self._interval_s):
            self._update()
        self._update()
        self._tell(methodcaller("close"))

    def _update(self) -> None:
        try:
            records, status = self._poll(self._seen)
        except Exception as error:  # The run itself reports what went wrong; this must not.
            logger.debug("progress is unknown: %s", error)
            return
        self._seen += len(records)
        for measurement in status.measured:
            self._tell(methodcaller("measure", measurement))
        for record in records:
            self._tell(methodcaller("record", record))
        self._tell(methodcaller("progress", status))

    def _tell(self, tell: Callable[[Sink], None]) -> None:
        for sink in [*self._sinks]:
            try:
                tell(sink)
            except Exception:  # It cannot end a run.
                logger.exception("%s failed, and is told nothing more", type(sink).__name__)
                self._sinks.remove(sink)
