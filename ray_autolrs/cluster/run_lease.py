"""A lease on a run's folder: two processes cannot train one run at the same time.

``lease.json`` says which process trains the run, and counts up as long as it does. A lease whose
process has ended, on the machine that asks, is taken over at once; that of another machine is
taken over once its count has stood still for ``STALE_S``. Clocks are not compared.

A process that has lost its lease, for example because it was suspended, cannot write the run's log
any more (:class:`ray_autolrs.cluster.event_log.EventLog`).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from ray_autolrs.checksums import sealed, unsealed
from ray_autolrs.cluster.background import Background
from ray_autolrs.cluster.run_folder import LEASE_FILE, RunFolder

logger = logging.getLogger(__name__)

FORMAT = "ray_autolrs.lease/1"

BEAT_INTERVAL_S = 5.0
"""Seconds between two signs of life."""

STALE_S = 25.0
"""A lease of another machine that has stood still for so long is taken over."""

DYING_S = 1.0
"""A process that was killed may need so long to be gone."""

SETTLE_S = 0.2
"""Wait before one's own lease is read again: of two that write at the same time, one goes on."""

_held: set[str] = set()
"""Owners of the leases that this process holds."""


class RunLease(Background):
    """Holds a run's folder while the context is entered.

    Args:
        folder: the run's.

    Attributes:
        owner: what the lease names its holder.

    Raises:
        ValueError: on entering, if another process trains the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__("autolrs-lease")
        self.owner = uuid.uuid4().hex
        self._folder = folder
        self._beats = 0

    def __enter__(self) -> RunLease:
        self._wait_for_others()
        _held.add(self.owner)
        try:
            self._take()
        except BaseException:
            _held.discard(self.owner)
            raise
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        _held.discard(self.owner)
        found = _read(self._folder)
        if found is not None and found["owner"] == self.owner:
            self._folder.delete(LEASE_FILE)

    def _wait_for_others(self) -> None:
        """Return once nobody holds the folder.

        Raises:
            ValueError: somebody does.
        """
        first = _read(self._folder)
        if first is None:
            return
        deadline_s = time.monotonic() + DYING_S
        while (is_alive := _is_alive(first)) and time.monotonic() < deadline_s:
            time.sleep(DYING_S / 10)
        if is_alive:
            raise ValueError(_told(self._folder, first))
        if is_alive is None:
            logger.info(
                "the run in %s was trained on %s; waiting up to %g s for a sign of life from there",
                self._folder.path,
                first["host"],
                STALE_S,
            )
            deadline_s = time.monotonic() + STALE_S
            while time.monotonic() < deadline_s:
                time.sleep(min(1.0, STALE_S / 10))
                found = _read(self._folder)
                if found is None:
                    return
                if found != first:
                    raise ValueError(_told(self._folder, found))
        logger.info("taking over the run in %s: its process has ended", self._folder.path)

    def _take(self) -> None:
        """Write the lease; of several processes that do so at the same time one goes on.

        Raises:
            ValueError: another one does.
        """
        if not self._folder.create(LEASE_FILE, self._next_beat()):
            found = _read(self._folder)
            if found is not None and _is_alive(found):  # It was faster.
                raise ValueError(_told(self._folder, found))
            self._beat()
        time.sleep(SETTLE_S)
        found = _read(self._folder)
        if found is not None and found["owner"] != self.owner:
            raise ValueError(_told(self._folder, found))

    def _work(self) -> None:
        while not self._stop.wait(BEAT_INTERVAL_S):
            try:
                found = _read(self._folder)
                if found is not None and found["owner"] != self.owner:
                    logger.error(
                        "%s; this process cannot go on with it", _told(self._folder, found)
                    )
                    return
                self._beat()
            except OSError as error:  # The storage may come back.
                logger.warning("the lease of %s cannot be renewed: %s", self._folder.path, error)

    def _beat(self) -> None:
        self._folder.write(LEASE_FILE, self._next_beat())

    def _next_beat(self) -> bytes:
        self._beats += 1
        lease = {"format": FORMAT, "owner": self.owner, "beats": self._beats, **_process()}
        return (json.dumps(sealed(lease), indent=2) + "\n").encode()


def _read(folder: RunFolder) -> dict[str, Any] | None:
    """Return a lease that is complete; one that is not has no holder that could be asked."""
    content = folder.read(LEASE_FILE)
    try:
        lease = unsealed(json.loads(content or b""))
    except (ValueError, RecursionError):
        return None
    names = {"owner": str, "beats": int, "host": str, "machine": str, "pid": int}
    if not isinstance(lease, dict):
        return None
    if not all(isinstance(lease.get(name), kind) for name, kind in names.items()):
        return None
    return lease


def _told(folder: RunFolder, lease: dict[str, Any]) -> str:
    return (
        f"the run in {folder.path} is being trained by process {lease['pid']} on {lease['host']}; "
        "wait until it has ended, or use another name"
    )


def _process() -> dict[str, Any]:
    """Return what tells this process from all others, on any machine."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "machine": _machine(), "pid": pid, "started": _start(pid)}


def _is_alive(lease: dict[str, Any]) -> bool | None:
    """Return whether a lease's process is alive; None if it is of another machine."""
    if lease["machine"] != _machine():
        return None
    pid = lease["pid"]
    if pid == os.getpid():
        return lease["owner"] in _held
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except PermissionError:  # It is there, and another user's.
        pass
    return lease.get("started") == _start(pid)


def _machine() -> str:
    """Return what tells this machine from others, and its containers and its boots apart."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:  # not Linux
        pass
    return " ".join(parts)


def _start(pid: int) -> str:
    """Return when a process was started, or nothing where that cannot be told.

    A number that was given to another process since then does not hold a lease.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # The name before it may hold anything.
    return "" if fields[0] == "Z" else fields[19]
