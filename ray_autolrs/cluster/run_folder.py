"""The files that a run leaves, on a local disk or on any storage that Ray Train can write to.

``config.json``      the resolved settings
``events.jsonl``     one record for each event and decision, append-only; see ``event_log.py``
``schedule.json``    the schedule found so far
``lease.json``       while the run is trained: who trains it
``progress.json``    while the run is trained: how far its workers are
``live.json``        while the run is trained: what it is doing
``report.html``      all of this as a page
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from pyarrow import fs

from ray_autolrs.checksums import sealed, unsealed
from ray_autolrs.cluster.retries import retried

CONFIG_FILE = "config.json"
EVENTS_FILE = "events.jsonl"
SCHEDULE_FILE = "schedule.json"
LEASE_FILE = "lease.json"
PROGRESS_FILE = "progress.json"
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

        def get() -> bytes | None:
            if self.filesystem.get_file_info(path).type == fs.FileType.NotFound:
                return None
            with self.filesystem.open_input_stream(path) as stream:
                return bytes(stream.read())

        return retried(get, f"reading {path}")

    def write(self, name: str, content: bytes, *, is_synced: bool = True) -> None:
        """Write a file whole: a reader sees the old content or the new one.

        Without ``is_synced`` the new one may be lost with the machine, though not with the process.
        """
        path = f"{self.path}/{name}"
        if not self.is_local:  # Object stores replace a file at once, when it is closed.

            def put() -> None:
                with self.filesystem.open_output_stream(path) as stream:
                    stream.write(content)

            retried(put, f"writing {path}")
            return
        temporary = _written_beside(path, content, is_synced=is_synced)
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
        """Write a file as indented JSON; an object with its checksum."""
        self.write(name, (json.dumps(sealed(value), indent=2) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Return a JSON file's value, or None if there is no such file.

        Raises:
            ValueError: the file is not JSON, or not what was written; the message names it.
        """
        content = self.read(name)
        if content is None:
            return None
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{self.path}/{name} is damaged, or is not a run's: it is not JSON ({error}); use "
                "another name for a new run"
            ) from error
        try:
            return unsealed(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path}/{name}: {error}") from error


def _written_beside(path: str, content: bytes, *, is_synced: bool = True) -> Path:
    """Write a file under another name, wait until it is on the disk, and return its path."""
    temporary = Path(f"{path}.tmp-{os.getpid()}-{threading.get_ident()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        if is_synced:
            os.fsync(file.fileno())
    return temporary
