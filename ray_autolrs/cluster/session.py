"""What a session of a run trains with: a run that is continued has one for each ``fit``."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version

from ray_autolrs.cluster.run_folder import EventLog, RunFolder

NAMED_PACKAGES = ("ray_autolrs", "torch", "ray", "numpy", "scipy", "botorch", "gpytorch")
"""Those whose version can change a run's numbers."""


def record_session(folder: RunFolder, owner: str | None, *, workers: int, gpus: float) -> None:
    """Write into the log what the run is about to be trained with.

    Args:
        folder: the run's.
        owner: holder of the run's lease.
        workers: training workers; 0 in this process.
        gpus: GPUs that the workers and the probe actors hold, from now to the session's end.
    """
    record = {
        "kind": "session",
        "workers": workers,
        "gpus": gpus,
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(terse=True),
        "time": time.time(),
    }
    EventLog(folder, owner).append([record])


def _versions() -> dict[str, str]:
    found = {}
    for name in NAMED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an extra, or a source tree that was never installed
            continue
    return found
