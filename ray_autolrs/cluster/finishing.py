"""How a user ends a run without a known end: ``AutoLRSTrainer.finish()`` or a signal."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from ray_autolrs.cluster.background import Background

logger = logging.getLogger(__name__)

FINISH_SIGNAL: signal.Signals | None = getattr(signal, "SIGUSR1", None)
"""Sent to the driver's process, it does what ``finish()`` does. None where there is no such
signal, as on Windows."""

POLL_INTERVAL_S = 0.5


class FinishRelay(Background):
    """Passes a request to finish on to the search actor, while a run goes on.

    A thread of its own does it: a signal handler must not wait for another process.

    Args:
        requested: set by the user, before the run or during it.
        finish: tells the search actor.
    """

    def __init__(self, requested: threading.Event, finish: Callable[[], None]) -> None:
        super().__init__("autolrs-finish")
        self._requested = requested
        self._finish = finish

    def _work(self) -> None:
        while not self._requested.wait(POLL_INTERVAL_S):
            if self._stop.is_set():
                return
        logger.info("asked to finish: the run ends after the stage that is being trained")
        self._finish()


@contextlib.contextmanager
def finish_on_signal(requested: threading.Event) -> Iterator[None]:
    """Set ``requested`` when ``FINISH_SIGNAL`` comes, and leave all handlers as they were.

    Only a process's main thread can listen. A handler that was not set by Python is left in its
    place, because it could not be put back.
    """
    if FINISH_SIGNAL is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(FINISH_SIGNAL)
    if before is None:
        yield
        return
    interrupt = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        requested.set()

    signal.signal(FINISH_SIGNAL, handle)
    try:
        yield
    finally:
        signal.signal(FINISH_SIGNAL, before)
        if interrupt is not None:  # Ray Train leaves one of its own.
            signal.signal(signal.SIGINT, interrupt)
