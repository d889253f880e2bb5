"""A run's folder as it is where the process dies, for each moment in which it may."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
        # Another thread writes live.json, which a restart does not read.
        ignored = shutil.ignore_patterns("live.json*")
        shutil.copytree(folder, copies / str(answered) / folder.name, ignore=ignored)
        return command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchActor, "exchange", copying)
        yield
