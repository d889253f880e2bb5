"""The files that a run leaves, on a local disk or on any storage that Ray Train can write to.

``config.json``      the resolved settings
``events.jsonl``     one record for each event and decision, append-only
``schedule.json``    the schedule found so far
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyarrow import fs

from ray_autolrs.algorithm.stages.records import Record

CONFIG_FILE = "config.json"
EVENTS_FILE = "events.jsonl"
SCHEDULE_FILE = "schedule.json"


class RunFolder:
    """A folder on a file system.

    Args:
        storage_path: a local path, or a URI such as ``s3://bucket/runs``.
        name: the run's name, a folder below it.
        filesystem: how to reach ``storage_path``, or None to tell from its form.
    """

    def __init__(
        self, storage_path: str, name: str, filesystem: fs.FileSystem | None = None
    ) -> None:
        if filesystem is None:
            filesystem, storage_path = fs.FileSystem.from_uri(storage_path)
        self.filesystem = filesystem
        self.path = f"{storage_path.rstrip('/')}/{name}"
        self.filesystem.create_dir(self.path, recursive=True)

    @property
    def is_local(self) -> bool:
        """Whether the folder can be reached with plain file operations."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None if there is no such file."""
        path = f"{self.path}/{name}"
        if self.filesystem.get_file_info(path).type == fs.FileType.NotFound:
            return None
        with self.filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole: a reader sees the old content or the new one."""
        path = f"{self.path}/{name}"
        if not self.is_local:  # Object stores replace a file at once, when it is closed.
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(content)
            return
        temporary = Path(f"{path}.tmp-{os.getpid()}")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def write_json(self, name: str, value: Any) -> None:
        """Write a file as indented JSON."""
        self.write(name, (json.dumps(value, indent=2) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Return a JSON file's value, or None if there is no such file."""
        content = self.read(name)
        return None if content is None else json.loads(content)


class EventLog:
    """The append-only log in a run's folder, with one writer.

    What was appended is on the disk when :meth:`append` returns. A record that a killed writer
    left half-written was never acknowledged: it is dropped when the log is opened again.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        content = folder.read(EVENTS_FILE) or b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            folder.write(EVENTS_FILE, whole)
        self.records: list[Record] = parse_events(whole)

    def append(self, records: Iterable[Record]) -> None:
        """Write records, in order, and wait until they are stored."""
        added = list(records)
        if not added:
            return
        self.records += added
        if not self._folder.is_local:  # Object stores cannot append.
            self._folder.write(EVENTS_FILE, _lines(self.records))
            return
        with Path(f"{self._folder.path}/{EVENTS_FILE}").open("ab") as file:
            file.write(_lines(added))
            file.flush()
            os.fsync(file.fileno())


def parse_events(content: bytes) -> list[Record]:
    """Return the records of a log, leaving out a last line that is not complete."""
    whole = content[: content.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]


def _lines(records: Iterable[Record]) -> bytes:
    return b"".join(json.dumps(record, allow_nan=False).encode() + b"\n" for record in records)
