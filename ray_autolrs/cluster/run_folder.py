"""The files that a run leaves, on a local disk or on any storage that Ray Train can write to.

``config.json``      the resolved settings
``events.jsonl``     one record for each event and decision, append-only
``schedule.json``    the schedule found so far
``lease.json``       while the run is trained: who trains it
``live.json``        while the run is trained: what it is doing
``report.html``      all of this as a page
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyarrow import fs

from ray_autolrs.algorithm.stages.records import Record

CONFIG_FILE = "config.json"
EVENTS_FILE = "events.jsonl"
SCHEDULE_FILE = "schedule.json"
LEASE_FILE = "lease.json"
LIVE_FILE = "live.json"


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

    @classmethod
    def of_run(
        cls, path: str | os.PathLike[str], filesystem: fs.FileSystem | None = None
    ) -> RunFolder:
        """Return the folder of a run that has begun; nothing is made.

        Args:
            path: the folder, a local path or a URI.
            filesystem: how to reach it, or None to tell from its form.

        Raises:
            ValueError: there is no run's log.
        """
        given = os.fspath(path)
        inner = given.rstrip("/")
        if filesystem is None:
            if "://" not in given:
                inner = os.path.abspath(Path(given).expanduser())  # noqa: PTH100 - "a/.." goes
            filesystem, inner = fs.FileSystem.from_uri(inner)
        if filesystem.get_file_info(f"{inner}/{EVENTS_FILE}").type != fs.FileType.File:
            raise ValueError(f"{given} is not a run's folder: it holds no {EVENTS_FILE}")
        storage_path, _, name = inner.rpartition("/")
        return cls(storage_path, name, filesystem)

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
        temporary = _written_beside(path, content)
        temporary.replace(path)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one, and tell whether it was written.

        On a local disk two processes never both write it; elsewhere both may, if they do so at
        the same moment.
        """
        if self.read(name) is not None:
            return False
        path = f"{self.path}/{name}"
        if not self.is_local:
            self.write(name, content)
            return True
        temporary = _written_beside(path, content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # A file system without hard links.
            temporary.replace(path)
            return True
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def delete(self, name: str) -> None:
        """Delete a file that is there."""
        self.filesystem.delete_file(f"{self.path}/{name}")

    def names(self) -> list[str]:
        """Return the names of all files and folders in it, sorted."""
        return sorted(info.base_name for info in self._entries())

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders in it that begin so, sorted."""
        return sorted(
            info.base_name
            for info in self._entries()
            if info.type == fs.FileType.Directory and info.base_name.startswith(prefix)
        )

    def _entries(self) -> list[fs.FileInfo]:
        return list(self.filesystem.get_file_info(fs.FileSelector(self.path)))

    def write_json(self, name: str, value: Any) -> None:
        """Write a file as indented JSON."""
        self.write(name, (json.dumps(value, indent=2) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Return a JSON file's value, or None if there is no such file.

        Raises:
            ValueError: the file is not JSON; the message names it.
        """
        content = self.read(name)
        if content is None:
            return None
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{self.path}/{name} is damaged, or is not a run's: it is not JSON ({error}); use "
                "another name for a new run"
            ) from error


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
        self.records: list[Record] = parse_events(whole, folder.path)

    def append(self, records: Iterable[Record]) -> None:
        """Write records, in order, and wait until they are stored.

        Raises:
            ValueError: another process has taken the run over.
        """
        added = list(records)
        if not added:
            return
        self._check_owner()
        self.records += added
        if not self._folder.is_local:  # Object stores cannot append.
            self._folder.write(EVENTS_FILE, _lines(self.records))
            return
        with Path(f"{self._folder.path}/{EVENTS_FILE}").open("ab") as file:
            file.write(_lines(added))
            file.flush()
            os.fsync(file.fileno())

    def _check_owner(self) -> None:
        if self._owner is None:
            return
        lease = self._folder.read_json(LEASE_FILE)
        if isinstance(lease, dict) and lease.get("owner", self._owner) != self._owner:
            raise ValueError(
                f"the run in {self._folder.path} was taken over by process {lease.get('pid')} on "
                f"{lease.get('host')}, because this one had given no sign of life"
            )


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
        if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
            raise _no_record(path, number, "it is not an object with a kind")
        records.append(record)
    return records


def _no_record(path: str, number: int, why: str) -> ValueError:
    return ValueError(
        f"line {number} of {path}/{EVENTS_FILE} is damaged, or was not written by a run: {why}; "
        "use another name for a new run"
    )


def _written_beside(path: str, content: bytes) -> Path:
    """Write a file under another name, wait until it is on the disk, and return its path."""
    temporary = Path(f"{path}.tmp-{os.getpid()}-{threading.get_ident()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _lines(records: Iterable[Record]) -> bytes:
    return b"".join(json.dumps(record, allow_nan=False).encode() + b"\n" for record in records)
