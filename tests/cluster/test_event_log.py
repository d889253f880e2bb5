"""The log on a storage that cannot append, that fails, and that is slow."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from pyarrow import fs

from ray_autolrs.cluster import retries
from ray_autolrs.cluster.event_log import LEAST_PARTS, EventLog, read_events
from ray_autolrs.cluster.run_folder import EVENTS_FILE, RunFolder


class Storage:
    """An object store, as far as a run's folder sees: it counts, and may fail or be slow.

    Args:
        root: where its files are.
        disturb: called before each request with its number.
    """

    def __init__(self, root: str, disturb: Callable[[int], None] = lambda number: None) -> None:
        self._inner = fs.SubTreeFileSystem(root, fs.LocalFileSystem())
        self.disturb = disturb
        self.requests = 0
        self.written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_file_info(self, what: Any) -> Any:
        self._request()
        return self._inner.get_file_info(what)

    def open_output_stream(self, path: str) -> Any:
        self._request()
        storage, stream = self, self._inner.open_output_stream(path)

        class Counted:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *error: object) -> None:
                stream.close()

            def write(self, content: bytes) -> None:
                storage.written += len(content)
                stream.write(content)

        return Counted()

    def _request(self) -> None:
        self.requests += 1
        self.disturb(self.requests)


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "WAITS_S", (0.0, 0.0, 0.0))
    return Storage(str(tmp_path))


def folder(storage: Storage) -> RunFolder:
    return RunFolder("runs", "one", storage)


def record(number: int) -> dict[str, Any]:
    return {"kind": "probe", "n": number, "losses": [0.5] * 100}


def numbers(storage: Storage) -> list[int]:
    return [each["n"] for each in read_events(folder(storage)) or [] if "n" in each]


def names(storage: Storage) -> list[str]:
    return [name for name in folder(storage).names() if name.startswith("events")]


def test_what_is_written_grows_with_the_log_and_not_with_its_square(storage):
    log = EventLog(folder(storage))
    for number in range(400):
        log.append([record(number)])
    whole = sum(len(folder(storage).read(name) or b"") for name in names(storage))
    assert numbers(storage) == list(range(400))
    assert storage.written < 3.5 * whole  # each time whole it would be 200 times
    assert len(names(storage)) <= 1 + 400 // 2 + LEAST_PARTS


def test_a_run_that_has_ended_leaves_one_file(storage):
    log = EventLog(folder(storage))
    for number in range(40):
        log.append([record(number)])
    assert len(names(storage)) > 1
    # Another process may write the end: it reads the parts first.
    EventLog(folder(storage)).append([{"kind": "finished"}])
    assert names(storage) == [EVENTS_FILE]
    assert numbers(storage) == list(range(40))


def test_a_storage_that_fails_now_and_then_is_asked_again(storage):
    def fail(number: int) -> None:
        if number % 2:
            raise OSError("503 Slow Down")

    log = EventLog(folder(storage))
    storage.disturb = fail
    for number in range(50):
        log.append([record(number)])
    storage.disturb = lambda number: None
    assert numbers(storage) == list(range(50))


def test_a_record_that_could_not_be_stored_leaves_the_log_as_it_was(storage):
    log = EventLog(folder(storage))
    log.append([record(0)])

    def fail(number: int) -> None:
        raise OSError("no route to host")

    storage.disturb = fail
    with pytest.raises(OSError, match="no route to host"):
        log.append([record(1)])
    storage.disturb = lambda number: None
    assert (numbers(storage), len(log.records)) == ([0], 1)
    log.append([record(2)])
    assert numbers(storage) == [0, 2]


def test_a_slow_storage_is_waited_for(storage):
    storage.disturb = lambda number: time.sleep(0.02)
    log = EventLog(folder(storage))
    began_s = time.monotonic()
    log.append([record(0)])
    log.append([record(1)])
    assert time.monotonic() - began_s >= 0.04
    storage.disturb = lambda number: None
    assert numbers(storage) == [0, 1]


def test_a_writer_that_died_while_it_folded_leaves_nothing_twice(storage, tmp_path):
    log = EventLog(folder(storage))
    for number in range(10):
        log.append([record(number)])
    kept = [name for name in names(storage) if name != EVENTS_FILE]
    parts = {name: folder(storage).read(name) or b"" for name in kept}
    assert len(parts) > 1
    log.append([{"kind": "finished"}])
    for name, content in parts.items():
        folder(storage).write(name, content)
    assert numbers(storage) == list(range(10))
    EventLog(folder(storage)).append([record(10)])
    assert numbers(storage) == list(range(11))


def test_a_missing_part_is_named(storage):
    log = EventLog(folder(storage))
    for number in range(4):
        log.append([record(number)])
    folder(storage).delete("events-00000002.jsonl")
    with pytest.raises(ValueError, match="lacks records 2 to 2 of its log, before events-00000003"):
        read_events(folder(storage))
