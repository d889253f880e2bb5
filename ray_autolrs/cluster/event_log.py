"""A run's log: append-only, one JSON record a line, on any storage.

On a local disk a record is appended to ``events.jsonl``. Object stores cannot append: there each
append writes a part of its own, ``events-N.jsonl``, where N is the number of records before it, and
all of the log is written to ``events.jsonl`` anew whenever it has doubled, and at its end. So the
bytes written grow with the log and not with its square. A part that ``events.jsonl`` holds already
is skipped: a writer may die before it has deleted it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from ray_autolrs.algorithm.stages.records import Record
from ray_autolrs.checksums import LINE_DIGITS, sealed, unsealed
from ray_autolrs.cluster.run_folder import EVENTS_FILE, LEASE_FILE, RunFolder

LEAST_PARTS = 16
"""Parts that are kept before they are folded, however short the log is."""


class EventLog:
    """The append-only log in a run's folder, with one writer.

    What was appended is on the disk when :meth:`append` returns. A record that a killed writer
    left half-written was never acknowledged: it is dropped when the log is opened again.

    Args:
        folder: the run's.
        owner: the holder of the run's lease, whose writer it is; None asks for no lease.

    Raises:
        ValueError: the log holds something else than records.
    """

    def __init__(self, folder: RunFolder, owner: str | None = None) -> None:
        self._folder = folder
        self._owner = owner
        content = folder.read(EVENTS_FILE) or b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            folder.write(EVENTS_FILE, whole)
        self.records: list[Record] = read_events(folder) or []
        self._folded = len(parse_events(whole, folder.path))
        self._parts = _parts(folder)

    def append(self, records: Iterable[Record]) -> None:
        """Write records, in order, and wait until they are stored.

        Raises:
            ValueError: another process has taken the run over.
        """
        added = list(records)
        if not added:
            return
        self._check_owner()
        lines = _lines(added)
        if self._folder.is_local:
            with Path(f"{self._folder.path}/{EVENTS_FILE}").open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            self.records += added
            self._folded += len(added)
            return
        is_end = added[-1]["kind"] == "finished"
        has_doubled = len(self.records) + len(added) >= 2 * self._folded
        if is_end or self._folded == 0 or (has_doubled and len(self._parts) >= LEAST_PARTS):
            self._fold([*self.records, *added])
        else:
            name = f"events-{len(self.records):08d}.jsonl"
            self._folder.write(name, lines)
            self._parts.append(name)
        self.records += added

    def _fold(self, records: list[Record]) -> None:
        self._folder.write(EVENTS_FILE, _lines(records))
        self._folded = len(records)
        for name in self._parts:
            self._folder.delete(name)
        self._parts = []

    def _check_owner(self) -> None:
        if self._owner is None:
            return
        lease = self._folder.read_json(LEASE_FILE)
        if isinstance(lease, dict) and lease.get("owner", self._owner) != self._owner:
            raise ValueError(
                f"the run in {self._folder.path} was taken over by process {lease.get('pid')} on "
                f"{lease.get('host')}, because this one had given no sign of life"
            )


def read_events(folder: RunFolder) -> list[Record] | None:
    """Return the records of a folder's log, or None if there is none.

    Raises:
        ValueError: a line is no record, or a part is missing.
    """
    content = folder.read(EVENTS_FILE)
    if content is None:
        return None
    records = parse_events(content, folder.path)
    for name in _parts(folder):
        first = int(name[len("events-") : -len(".jsonl")])
        if first > len(records):
            raise ValueError(
                f"{folder.path} lacks records {len(records)} to {first - 1} of its log, before "
                f"{name}; use another name for a new run"
            )
        if first == len(records):
            records += parse_events(folder.read(name) or b"", folder.path)
    return records


def parse_events(content: bytes, path: str = "") -> list[Record]:
    """Return the records of a log, leaving out a last line that is not complete.

    Args:
        content: of the log.
        path: of the run's folder, for the message.

    Raises:
        ValueError: a line is no record.
    """
    whole = content[: content.rfind(b"\n") + 1]
    records: list[Record] = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _no_record(path, number, f"it is not JSON ({error})") from error
        try:
            record = unsealed(record)
        except (ValueError, RecursionError) as error:
            raise _no_record(path, number, str(error)) from error
        if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
            raise _no_record(path, number, "it is not an object with a kind")
        records.append(record)
    return records


def _no_record(path: str, number: int, why: str) -> ValueError:
    return ValueError(
        f"line {number} of {path}/{EVENTS_FILE} is damaged, or was not written by a run: {why}; "
        "use another name for a new run"
    )


def _parts(folder: RunFolder) -> list[str]:
    """Return the names of the log's parts, in order; there are none on a local disk."""
    if folder.is_local:
        return []
    return [name for name in folder.names() if re.fullmatch(r"events-\d{8}\.jsonl", name)]


def _lines(records: Iterable[Record]) -> bytes:
    lines = (json.dumps(sealed(record, LINE_DIGITS), allow_nan=False) for record in records)
    return b"".join(line.encode() + b"\n" for line in lines)
