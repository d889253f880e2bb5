"""A Ray of three nodes on one machine, whose processes can be killed one by one."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from ray._common.network_utils import find_free_port
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.cluster_utils import Cluster

SETTINGS = {
    # A process that cannot start in a minute is killed and started again. On a busy machine all
    # of them need longer, and so none would ever start.
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    # Workers give way to all else by default. Beside other programs they would seldom run.
    "RAY_worker_niceness": "0",
    # Ray Train asks this one whether its controller is alive. By default it asks whichever Ray it
    # finds on the machine, and takes the controller for dead that another one does not know.
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:9",
    # What only watches would take a fifth of a core: files of log, the machine's load, usage.
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "60",
    "REPORTER_UPDATE_INTERVAL_MS": "600000",
    "RAY_USAGE_STATS_ENABLED": "0",
}

AWAY = "away"
"""Resource of the nodes beside the head, of which each has room for a whole run's workers."""

PREEMPTION = 2
"""Reason for which a node is drained, as Ray's autoscaler protocol numbers it."""

RAYLET = "raylet"


class Nodes:
    """A head node, where drivers and search actors are, and two more for workers."""

    def __init__(self, temporary: str) -> None:
        # A port is bound for a dashboard that is not started; another Ray may have the usual one.
        port = {"dashboard_port": find_free_port()}
        head = {"num_cpus": 6, "include_dashboard": False, "temp_dir": temporary, **port}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.gcs_address

    def fill(self) -> None:
        """Have two nodes beside the head."""
        for node in [*self._cluster.worker_nodes]:
            if not _raylet_of(node).is_running():
                self._cluster.remove_node(node, allow_graceful=False)
        while len(self._cluster.worker_nodes) < 2:
            self._cluster.add_node(num_cpus=2, resources={AWAY: 2})

    def kill_raylet(self) -> bool:
        """Kill the raylet of a node where training workers are; False while there is none."""
        node = self._with_workers()
        if node is not None:
            _raylet_of(node).send_signal(signal.SIGKILL)
        return node is not None

    def drain(self, seconds: float) -> bool:
        """Tell that such a node is taken away in a while, and take it away; False if none is."""
        node = self._with_workers()
        if node is None:
            return False
        deadline_ms = int(1000 * (time.time() + seconds))
        gcs = GcsClient(address=self.address)
        accepted, reason = gcs.drain_node(node.node_id, PREEMPTION, "taken away", deadline_ms)
        assert accepted, reason
        return True

    def shutdown(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()  # type: ignore[no-untyped-call]

    def _with_workers(self) -> Any:
        parents = {psutil.Process(pid).ppid() for pid in pids("ray::RayTrainWorker")}
        return next((n for n in self._cluster.worker_nodes if _raylet_of(n).pid in parents), None)


def _raylet_of(node: Any) -> Any:
    return psutil.Process(node.all_processes[RAYLET][0].process.pid)


@contextlib.contextmanager
def nodes() -> Iterator[Nodes]:
    """Start the head node, and end all nodes."""
    with tempfile.TemporaryDirectory(prefix="r-", ignore_cleanup_errors=True) as temporary:
        # Ray's file of the Ray to connect to is there, too: no other program finds this one.
        os.environ.update(SETTINGS, RAY_TMPDIR=temporary)
        (Path(temporary) / "ray").mkdir()
        started = Nodes(f"{temporary}/ray")
        try:
            yield started
        finally:
            started.shutdown()


def pids(title: str) -> list[int]:
    """Return this process's descendants with a title."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] and process.cmdline()[0].startswith(title):
                found.append(process.pid)
    return found
