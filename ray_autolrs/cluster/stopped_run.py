"""What a run that stops because of its LRs leaves in hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from ray_autolrs.cluster.checkpoint_loading import stored_checkpoints
from ray_autolrs.cluster.run_folder import RunFolder


@contextlib.contextmanager
def last_checkpoint_told(folder: RunFolder) -> Iterator[None]:
    """Name the run's last checkpoint in the error with which a search ends.

    Raises:
        SearchFailedError: as raised inside, with ``checkpoint_path``.
    """
    try:
        yield
    except SearchFailedError as error:
        whole = [stored for stored in stored_checkpoints(folder) if stored.step >= 0]
        if not whole:
            raise
        step, name = whole[-1]
        path = f"{folder.path}/{name}"
        told = SearchFailedError(f"{error}. The last good checkpoint, of step {step}, is {path}")
        told.checkpoint_path = path
        raise told from error
