"""Calls to a storage that may fail for a moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger(__name__)

WAITS_S = (0.2, 1.0, 5.0)
"""Waits before the second and further tries. A storage that is away for longer ends the run, which
goes on by name."""

Returned = TypeVar("Returned")


def retried(call: Callable[[], Returned], what: str) -> Returned:
    """Return what a call returns, and try again where the storage failed.

    Args:
        call: may run more than once; the storage keeps the last one's effect.
        what: it does, for the log.

    Raises:
        OSError: of the last try; at once where a file or a permission is missing.
    """
    for wait_s in WAITS_S:
        try:
            return call()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            logger.warning("%s failed (%s); trying again in %g s", what, error, wait_s)
            time.sleep(wait_s)
    return call()
