"""A run's folder as it is where the process dies, for each moment in which it may."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_autolrs.cluster.checkpoint_writer import CheckpointWriter, Draft
from ray_autolrs.cluster.search_actor import SearchActor


@contextlib.contextmanager
def copied_at_each_answer(folder: Path, copies: Path) -> Iterator[None]:
    """Copy a run's folder each time that an event is answered, to ``copies/NUMBER/NAME``.

    The event is in the log by then, and what follows from it is not saved yet.
    """
    exchange, answered = SearchActor.exchange, 0

    def copying(self: SearchActor, event: Any) -> Any:
        nonlocal answered
        command = exchange(self, event)
        answered += 1
        # Files that another thread is about to rename are of no run that was killed here, and a
        # restart does not read live.json, which another thread replaces and deletes.
        passing = shutil.ignore_patterns("*.tmp*", "live.json*")
        shutil.copytree(folder, copies / str(answered) / folder.name, ignore=passing)
        return command

    with pytest.MonkeyPatch.context() as patch, written_at_once():
        patch.setattr(SearchActor, "exchange", copying)
        yield


@contextlib.contextmanager
def written_at_once() -> Iterator[None]:
    """Store each checkpoint before training goes on: a write takes longer than small steps."""
    submit = CheckpointWriter.submit

    def submit_and_wait(self: CheckpointWriter, draft: Draft) -> None:
        submit(self, draft)
        self.flush()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointWriter, "submit", submit_and_wait)
        yield
