"""The log: one line for each decision."""

from __future__ import annotations

import logging

from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.report.lines import describe
from ray_autolrs.sinks.sink import Sink

logger = logging.getLogger(__name__)


class LogSink(Sink):
    """Logs a line for each record that has something to say."""

    def record(self, record: Record) -> None:
        line = describe(record)
        if line is not None:
            logger.info("%s", line)
