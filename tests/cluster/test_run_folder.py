from __future__ import annotations

import pytest
from pyarrow import fs

from ray_autolrs.cluster.event_log import EventLog, parse_events, read_events
from ray_autolrs.cluster.run_folder import EVENTS_FILE, RunFolder


def remote_folder(root: str) -> RunFolder:
    """A folder behind a file system that is not Arrow's local one, as an object store is."""
    filesystem = fs.SubTreeFileSystem(root, fs.LocalFileSystem())
    return RunFolder("runs", "one", filesystem)


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    if request.param == "local":
        return RunFolder(str(tmp_path), "one")
    return remote_folder(str(tmp_path))


def test_files_are_written_whole_and_read_back(folder):
    assert folder.read("config.json") is None
    assert folder.read_json("config.json") is None
    folder.write_json("config.json", {"a": 1})
    folder.write_json("config.json", {"a": 2})
    assert folder.read_json("config.json") == {"a": 2}
    names = [
        info.base_name for info in folder.filesystem.get_file_info(fs.FileSelector(folder.path))
    ]
    assert names == ["config.json"]


def test_log_keeps_what_was_appended_before(folder):
    EventLog(folder).append([{"kind": "a", "n": 1}, {"kind": "a", "n": 2}])
    log = EventLog(folder)
    log.append([{"kind": "a", "n": 3}])
    log.append([])
    assert log.records == [{"kind": "a", "n": 1}, {"kind": "a", "n": 2}, {"kind": "a", "n": 3}]
    assert read_events(folder) == log.records


def test_half_written_record_is_dropped(folder):
    EventLog(folder).append([{"kind": "a", "n": 1}])
    folder.write(EVENTS_FILE, folder.read(EVENTS_FILE) + b'{"n": 2, "los')
    assert parse_events(folder.read(EVENTS_FILE)) == [{"kind": "a", "n": 1}]
    log = EventLog(folder)
    log.append([{"kind": "a", "n": 3}])
    assert read_events(folder) == [{"kind": "a", "n": 1}, {"kind": "a", "n": 3}]
    assert b"los" not in folder.read(EVENTS_FILE)


def test_values_that_json_does_not_know_are_refused(folder):
    with pytest.raises(ValueError, match="JSON"):
        EventLog(folder).append([{"loss": float("nan")}])
