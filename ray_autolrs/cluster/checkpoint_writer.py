"""Writes checkpoints from a thread of its own, so that training waits for no storage."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_autolrs.cluster.checkpoint_files import Entries
from ray_autolrs.cluster.checkpoint_store import CheckpointStore, Place
from ray_autolrs.training.snapshot import Snapshot

logger = logging.getLogger(__name__)

WRITE_TIMEOUT_S = 1800.0
"""Longest wait for a checkpoint to be written, where the run cannot go on without it."""

LEAVE_TIMEOUT_S = 8.0
"""Longest wait for it when the run ends by an error, or by Ctrl-C."""

NICENESS = 5
"""Added to that of the thread that writes: where all cores are busy it gets a third of the time of
each thread that trains."""

RETRY_WAITS_S = (1.0, 5.0, 30.0)
"""Waits before a stage's checkpoint that the storage refused is tried again."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A checkpoint that is to be written.

    Attributes:
        place: which one.
        copy: holds the state, and is free again when it is written.
        files: returns what to write, by file name.
        told: what the manifest says besides.
        copied_s: seconds that its copy took.
        staged: of further files, which the workers have put into the place's ``staging_path``.
    """

    place: Place
    copy: Snapshot
    files: Callable[[], Mapping[str, Any]]
    told: Mapping[str, Any] = field(default_factory=dict)
    copied_s: float = 0.0
    staged: Entries = field(default_factory=dict)


class CheckpointWriter:
    """Writes one checkpoint at a time; one more may wait.

    Copies of the state are handed out by :meth:`free_copy` and come back when they are written,
    so that no more than two are held, and their memory is used again.

    What the storage refuses is named in a warning. Within a stage the run goes on with the older
    checkpoints. A stage's own is tried again, since the next ones need it; if it fails for good,
    the run ends.

    Args:
        store: where to.
        written: told how many seconds each one took, its copy included.
    """

    def __init__(self, store: CheckpointStore, written: Callable[[float], None]) -> None:
        self._store = store
        self._written = written
        self._changed = threading.Condition()
        self._waiting: Draft | None = None
        self._writing: Draft | None = None
        self._free: list[Snapshot] = []
        self._error: BaseException | None = None
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="autolrs-checkpoints", daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or is being written."""
        with self._changed:
            return self._is_done()

    def free_copy(self) -> Snapshot:
        """Return a snapshot in host memory to copy the state to; waits while two are in use.

        Raises:
            TimeoutError: the storage does not answer.
        """
        with self._changed:
            self._wait_until(lambda: self._waiting is None, WRITE_TIMEOUT_S)
            return self._free.pop() if self._free else Snapshot(in_host_memory=True)

    def submit(self, draft: Draft) -> None:
        """Have a checkpoint written; does not wait.

        Raises:
            OSError: an earlier one could not be written.
        """
        with self._changed:
            self.check()
            assert self._waiting is None, "free_copy comes first"
            self._waiting = draft
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is written.

        Raises:
            OSError: the storage refused it.
            TimeoutError: the storage does not answer.
        """
        with self._changed:
            self._wait_until(self._is_done, WRITE_TIMEOUT_S)
            self.check()

    def close(self) -> None:
        """End the thread, when it has written what it has, or after a while."""
        with self._changed:
            self._is_closed.set()
            self._changed.notify_all()
        self._thread.join(LEAVE_TIMEOUT_S)
        if self._thread.is_alive():
            logger.warning(
                "%s was not written %g s after the run had ended, and is left",
                self._names(),
                LEAVE_TIMEOUT_S,
            )

    def _is_done(self) -> bool:
        return self._waiting is None and self._writing is None

    def check(self) -> None:
        """Raise what has kept a checkpoint from being written, if the run is to end by it."""
        if self._error is not None:
            raise self._error

    def _wait_until(self, holds: Callable[[], bool], timeout_s: float) -> None:
        if not self._changed.wait_for(lambda: holds() or self._error is not None, timeout_s):
            raise TimeoutError(
                f"{self._names()} could not be written in {timeout_s:g} s; see whether the storage "
                f"of {self._store.folder.path} answers"
            )

    def _names(self) -> str:
        drafts = (draft for draft in (self._writing, self._waiting) if draft is not None)
        return " and ".join(f"{self._store.folder.path}/{draft.place.name}" for draft in drafts)

    def _work(self) -> None:
        _give_way()
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting is not None or self._is_closed.is_set()
                )
                draft, self._waiting = self._waiting, None
                if draft is None:
                    return
                self._writing = draft
                self._changed.notify_all()
            error = self._write(draft)
            with self._changed:
                self._writing = None
                self._free.append(draft.copy)
                self._error = self._error or error
                self._changed.notify_all()

    def _write(self, draft: Draft) -> BaseException | None:
        """Write a checkpoint, and return the error that is to end the run, if there is one."""
        waits_s = iter(RETRY_WAITS_S if draft.place.number == 0 else ())
        while True:
            started_s = time.perf_counter()
            try:
                self._store.write(draft.place, draft.files(), draft.told, draft.staged)
            except OSError as error:
                self._warn(draft, error)
                if draft.place.number > 0:
                    return None
                wait_s = next(waits_s, None)
                if wait_s is None or self._is_closed.wait(wait_s):
                    return error
            except BaseException as error:  # It ends the run, in the thread that trains.
                return error
            else:
                self._written(draft.copied_s + time.perf_counter() - started_s)
                return None

    def _warn(self, draft: Draft, error: OSError) -> None:
        logger.warning(
            "checkpoint %s/%s could not be written: %s; older ones stay",
            self._store.folder.path,
            draft.place.name,
            error,
        )


def _give_way() -> None:
    """Lower the priority of this thread, where a thread has one of its own: on Linux."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            own = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, own + NICENESS)
