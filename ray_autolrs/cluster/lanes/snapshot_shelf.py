"""Where probe actors find a stage's snapshot."""

from __future__ import annotations

import threading

import ray

from ray_autolrs.training.transport import PackedState

TAKE_TIMEOUT_S = 5.0
"""Longest wait for a stage's snapshot before a lane gives its probe back."""

OFFER_TIMEOUT_S = 600.0
"""Longest wait for a snapshot to come from the worker that offers it, which may be lost."""


class SnapshotShelf:
    """Keeps the latest stage's snapshot in the object store, once for all lanes.

    An object goes with the process that put it there. The shelf puts a copy of its own, so
    that a lane can still read the snapshot when the worker that offered it has died.
    """

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._step = -1
        self._snapshot: ray.ObjectRef[PackedState] | None = None

    def offer(self, step: int, holder: list[ray.ObjectRef[PackedState]]) -> None:
        """Keep the packed snapshot taken before ``step``; ``holder`` is [its reference]."""
        snapshot = ray.put(ray.get(holder[0], timeout=OFFER_TIMEOUT_S))
        with self._arrived:
            self._snapshot, self._step = snapshot, step
            self._arrived.notify_all()

    def take(self, step: int) -> list[ray.ObjectRef[PackedState]]:
        """Return [the reference] of the snapshot taken before ``step``.

        A lane may ask for it before it is offered: then this waits, and returns [] if nothing
        comes in ``TAKE_TIMEOUT_S``.
        """
        with self._arrived:
            self._arrived.wait_for(lambda: self._step == step, TAKE_TIMEOUT_S)
            return [self._snapshot] if self._snapshot is not None and self._step == step else []
