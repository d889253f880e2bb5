"""A process that gets SIGTERM has the run's state stored before it ends.

It asks for a checkpoint by way of the search actor, and ends once there is one, or after
``GRACE_S``. Drivers do so, and training workers of any rank. Rank 0 stores the state at its next
look at the losses. Probes that a worker or an actor runs by itself are not stored, nor is a
sharded model within a stage: of these the stage's start is there already.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import ray

from ray_autolrs.cluster.checkpoint_files import (
    MANIFEST_FILE,
    DamagedCheckpointError,
    parse_manifest,
)
from ray_autolrs.cluster.checkpoint_store import MIDSTAGE, ON_NOTICE
from ray_autolrs.cluster.run_folder import RunFolder

logger = logging.getLogger(__name__)

GRACE_S = 20.0
"""Longest wait for a checkpoint after SIGTERM. Kubernetes kills a process after 30 s."""

POLL_S = 0.5

MAIN_THREAD_TIMEOUT_S = 30.0
"""Longest wait for a worker's main thread, which answers its controller in between."""


class StoredFirst:
    """Has the state stored before SIGTERM does to this process what it did before.

    A second SIGTERM does not wait.

    Args:
        folder: the run's.
        ask: has the state stored soon, with ``ON_NOTICE`` in its manifest.
    """

    def __init__(self, folder: RunFolder, ask: Callable[[], None]) -> None:
        self._folder = folder
        self._ask = ask
        self._is_asked = threading.Event()
        self._is_over = threading.Event()
        self._before: Any = None

    def install(self) -> None:
        """Listen; called in the main thread. A process that ignores the signal still does."""
        before = signal.getsignal(signal.SIGTERM)
        if before is None or before is signal.SIG_IGN:
            return
        self._before = before
        signal.signal(signal.SIGTERM, self._handle)

    def remove(self) -> None:
        """Put the former handler back, and leave to it a signal that has come; see ``install``."""
        if self._before is None:
            return
        signal.signal(signal.SIGTERM, self._before)
        was_over = self._is_over.is_set()
        self._is_over.set()
        if self._is_asked.is_set() and not was_over:
            signal.raise_signal(signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_asked.is_set():
            self.remove()
            return
        self._is_asked.set()
        threading.Thread(target=self._wait, name="autolrs-departure", daemon=True).start()

    def _wait(self) -> None:
        logger.warning("told to end: the run's state is stored first, for %g s at most", GRACE_S)
        before = set(stored_on_notice(self._folder))
        deadline_s = time.monotonic() + GRACE_S
        try:
            self._ask()
            while time.monotonic() < deadline_s and not self._is_over.wait(POLL_S):
                if set(stored_on_notice(self._folder)) - before:
                    break
        except Exception as error:  # Storage or search actor that is away: it ends all the same.
            logger.warning("the state could not be stored: %s", error)
        if not self._is_over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)


def stored_on_notice(folder: RunFolder) -> list[str]:
    """Return the names of the checkpoints that were stored because something was about to go."""
    found = []
    for name in (*folder.folders("checkpoint_"), *folder.folders(MIDSTAGE)):
        with contextlib.suppress(DamagedCheckpointError):
            if parse_manifest(folder.read(f"{name}/{MANIFEST_FILE}")).get(ON_NOTICE):
                found.append(name)
    return found


@contextlib.contextmanager
def stored_before_sigterm(folder: RunFolder, ask: Callable[[], None]) -> Iterator[None]:
    """Have the state stored before SIGTERM ends this process, if this is its main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    listener = StoredFirst(folder, ask)
    listener.install()
    try:
        yield
    finally:
        listener.remove()


_of_worker: StoredFirst | None = None
"""A training worker's: its training thread makes it, and its main thread installs it."""


@contextlib.contextmanager
def stored_before_worker_ends(folder: RunFolder, ask: Callable[[], None]) -> Iterator[None]:
    """Have the state stored before SIGTERM ends this training worker.

    Ray Train trains in a thread, and only a main thread can listen: it is asked to by way of the
    worker's actor, whose calls it answers.
    """
    global _of_worker
    _of_worker = StoredFirst(folder, ask)
    listens = _in_main_thread(_install_here)
    try:
        yield
    finally:
        if listens:
            _in_main_thread(_remove_here)
        _of_worker = None


def _install_here() -> None:
    if _of_worker is not None:
        _of_worker.install()


def _remove_here() -> None:
    if _of_worker is not None:
        _of_worker.remove()


def _in_main_thread(function: Callable[[], None]) -> bool:
    """Call a function in the main thread of Ray Train's worker; tell whether it was called."""
    try:
        worker: Any = ray.get_runtime_context().current_actor
        ray.get(worker.execute.remote(function), timeout=MAIN_THREAD_TIMEOUT_S)
    except (AttributeError, RuntimeError, ray.exceptions.RayError) as error:
        logger.info("SIGTERM ends this worker at once: %s", error)
        return False
    return True
