"""Reports of a run's folder, wherever it is stored; neither Ray nor torch is loaded for them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.cluster.event_log import read_events
from ray_autolrs.cluster.run_folder import (
    CONFIG_FILE,
    LIVE_FILE,
    SCHEDULE_FILE,
    RunFolder,
)
from ray_autolrs.report.history import write_history as write_table
from ray_autolrs.report.html_page import html_page
from ray_autolrs.report.main_picture import main_picture
from ray_autolrs.report.run_view import RunView
from ray_autolrs.schedule import LRSchedule
from ray_autolrs.settings_tree import from_stored

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
"""In the run's folder."""

RunPath = str | os.PathLike[str]
"""A run's folder: a local path, or a URI such as ``s3://bucket/runs/name``."""


def write_report(run: RunPath, path: RunPath | None = None) -> str:
    """Write a run's report, and return where it is.

    Args:
        run: the run's folder.
        path: local file to write; None is ``report.html`` in the folder.

    Raises:
        ValueError: there is no run, or one of its files is damaged.
    """
    folder = RunFolder.of_run(run)
    return _write(folder, read_run(folder), path, refresh_s=None)


def watch(
    run: RunPath,
    path: RunPath | None = None,
    *,
    interval_s: float = 5.0,
    on_write: Callable[[str], None] | None = None,
) -> str:
    """Write a run's report whenever it has gone on, until it has finished; return where it is.

    Until then the page reloads itself. What ends it before is a ``KeyboardInterrupt``: the page
    that was written last stays.

    Args:
        run: the run's folder.
        path: as for :func:`write_report`.
        interval_s: seconds between two looks at the log, and two reloads of the page.
        on_write: told the path after each writing.

    Raises:
        ValueError: there is no run, or one of its files is damaged.
    """
    folder = RunFolder.of_run(run)
    shown: object = None
    written = ""
    while True:
        view = read_run(folder)
        is_over = view.finished is not None
        if shown != (len(view.records), view.live):
            shown = len(view.records), view.live
            written = _write(folder, view, path, refresh_s=None if is_over else interval_s)
            if on_write is not None:
                on_write(written)
        if is_over:
            return written
        time.sleep(interval_s)


def write_picture(run: RunPath, path: RunPath) -> None:
    """Write a run's main picture (:mod:`ray_autolrs.report.main_picture`).

    Args:
        run: the run's folder.
        path: image file; its suffix gives the format, such as ``.png``.

    Raises:
        ValueError: there is no run, or one of its files is damaged.
        ImportError: Matplotlib is missing.
    """
    figure = main_picture(read_run(RunFolder.of_run(run)))
    figure.savefig(os.fspath(path))


def write_history(run: RunPath, path: RunPath) -> None:
    """Write a run's history, a row for each probe and each evaluation.

    Args:
        run: the run's folder.
        path: file ending in ``.parquet`` or ``.csv``.

    Raises:
        ValueError: there is no run, one of its files is damaged, or the suffix is another.
    """
    write_table(read_run(RunFolder.of_run(run)).records, path)


def report_at_end(folder: RunFolder) -> None:
    """Write the report of a run that has just ended, well or not; a failure is only logged.

    A run that was refused before it began has none.
    """
    try:
        run = read_run(folder)
        if run.records:
            _write(folder, run, None, refresh_s=None)
    except Exception:  # The run's result must not depend on its picture.
        logger.exception("the report of the run in %s could not be written", folder.path)


def read_run(folder: RunFolder) -> RunView:
    """Return a run as its folder tells it.

    Raises:
        ValueError: one of its files is damaged.
    """
    records: list[Record] = read_events(folder) or []
    stored, schedule = folder.read_json(CONFIG_FILE), folder.read_json(SCHEDULE_FILE)
    try:
        return RunView(
            name=Path(folder.path).name,
            records=records,
            stored=None if stored is None else from_stored(stored),
            schedule=None if schedule is None else LRSchedule.from_dict(schedule),
            live=folder.read_json(LIVE_FILE),
        )
    except ValueError as error:
        raise ValueError(f"the run in {folder.path}: {error}") from error


def _write(
    folder: RunFolder, view: RunView, path: RunPath | None, *, refresh_s: float | None
) -> str:
    page = html_page(view, refresh_s=refresh_s)
    if path is None:
        folder.write(REPORT_FILE, page.encode())
        return f"{folder.path}/{REPORT_FILE}"
    Path(path).write_text(page, encoding="utf-8")
    return os.fspath(path)
