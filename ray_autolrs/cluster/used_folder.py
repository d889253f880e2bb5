"""What a run's folder may hold when a run begins in it, goes on in it, or has ended in it.

A name that was used before continues its run. What cannot be continued is refused, with the file
that is missing or that no run has written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_autolrs.algorithm.stages.records import Record, replay
from ray_autolrs.cluster.checkpoint_files import MODEL_FILE, STATE_FILE
from ray_autolrs.cluster.checkpoint_store import MIDSTAGE, missing_file
from ray_autolrs.cluster.event_log import read_events
from ray_autolrs.cluster.interval import RANGE_TEST_FILE
from ray_autolrs.cluster.run_folder import (
    CONFIG_FILE,
    EVENTS_FILE,
    SCHEDULE_FILE,
    RunFolder,
)
from ray_autolrs.cluster.search_actor import found_with
from ray_autolrs.config import AutoLRSConfig
from ray_autolrs.schedule import LRSchedule
from ray_autolrs.settings_tree import from_stored

_WRITTEN_AFTER_THE_LOG = {SCHEDULE_FILE, STATE_FILE, MODEL_FILE}


def read_used(folder: RunFolder, config: AutoLRSConfig) -> list[Record]:
    """Return the records of the run in a folder; none if none has begun there.

    Raises:
        ValueError: the folder is not a run's, or lacks a file that the run needs to go on.
    """
    records = read_events(folder)
    if records is None:
        _check_new(folder)
        return []
    if has_begun(records):
        needed = [CONFIG_FILE] if config.lr is not None else [CONFIG_FILE, RANGE_TEST_FILE]
        for name in needed:
            if folder.read(name) is None:
                raise _lacks(folder, name)
    return records


def has_begun(records: Sequence[Record]) -> bool:
    """Return whether a run's workers were ready: one that was refused before may be mended."""
    return any(record["kind"] == "ready" for record in records)


def finished_record(records: Sequence[Record]) -> Record | None:
    """Return the record of a run's end, or None if it has not ended."""
    return next((record for record in records if record["kind"] == "finished"), None)


def checkpoint_of(folder: RunFolder, finished: Record) -> str:
    """Return the path of a finished run's checkpoint.

    Raises:
        ValueError: one of its files is not there.
    """
    name: Any = finished.get("checkpoint")
    if not isinstance(name, str) or "/" in name:
        raise ValueError(f"{folder.path}/{EVENTS_FILE} names no checkpoint, but {name!r}")
    missing = missing_file(folder, name, MODEL_FILE)
    if missing is not None:
        raise _lacks(folder, missing)
    return f"{folder.path}/{name}"


def schedule_of(folder: RunFolder, config: AutoLRSConfig, records: Sequence[Record]) -> LRSchedule:
    """Return a run's schedule: from its file or, if that is gone, from the log."""
    stored = folder.read_json(SCHEDULE_FILE)
    if stored is None:
        lanes = next(record for record in records if record["kind"] == "lanes")
        state = replay(config.plan(lanes["parallel_probes"]), records)
        schedule = LRSchedule(state.segments, found_with(config, records))
        folder.write_json(SCHEDULE_FILE, schedule.to_dict())
        return schedule
    try:
        return LRSchedule.from_dict(stored)
    except ValueError as error:
        raise ValueError(
            f"{folder.path}/{SCHEDULE_FILE}: {error}; delete it, and it is made again from "
            f"{EVENTS_FILE}"
        ) from error


def _check_new(folder: RunFolder) -> None:
    """Refuse a folder without a log that holds what only a log explains, or others' files."""
    checkpoints = {*folder.folders("checkpoint_"), *folder.folders(MIDSTAGE)}
    for name in folder.names():
        if name in _WRITTEN_AFTER_THE_LOG | checkpoints:
            raise ValueError(
                f"{folder.path} holds {name}, but no {EVENTS_FILE}: it is not a run's folder, or "
                "has lost its log; nothing in it is read. Use another name"
            )
    try:
        stored = folder.read_json(CONFIG_FILE)
        if stored is not None:
            from_stored(stored)
    except ValueError as error:
        raise ValueError(
            f"{folder.path} is not a run's folder, because its {CONFIG_FILE} is not a run's: "
            f"{error}"
        ) from error


def _lacks(folder: RunFolder, name: str) -> ValueError:
    return ValueError(
        f"the run in {folder.path} lacks {name}, so that it can neither go on nor return its "
        "result; put the file back, or use another name for a new run"
    )
