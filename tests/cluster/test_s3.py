"""A run's folder in a real S3 API on loopback; it needs ``pip install 'moto[server]'``."""

from __future__ import annotations

import socket

import pytest
from pyarrow import fs

from ray_autolrs.cluster.event_log import EventLog, read_events
from ray_autolrs.cluster.run_folder import EVENTS_FILE, RunFolder
from ray_autolrs.cluster.run_lease import RunLease

moto_server = pytest.importorskip("moto.server", reason="needs pip install 'moto[server]'")


@pytest.fixture(scope="module")
def s3():
    """A bucket called runs."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    filesystem = fs.S3FileSystem(
        access_key="test",
        secret_key="test",
        region="us-east-1",
        endpoint_override=f"127.0.0.1:{port}",
        scheme="http",
        allow_bucket_creation=True,
    )
    filesystem.create_dir("runs")
    yield filesystem
    server.stop()


def test_a_log_is_kept_in_parts_and_ends_as_one_file(s3):
    folder = RunFolder("runs", "parts", s3)
    assert read_events(folder) is None
    log = EventLog(folder)
    for number in range(5):
        log.append([{"kind": "a", "n": number}])
    assert len(folder.names()) == 5
    # Another process reads what was appended, and goes on.
    other = EventLog(folder)
    assert other.records == log.records
    other.append([{"kind": "finished"}])
    assert folder.names() == [EVENTS_FILE]
    assert [each["kind"] for each in read_events(folder) or []] == ["a"] * 5 + ["finished"]


def test_one_process_trains_a_run(s3):
    folder = RunFolder("runs", "leased", s3)
    with RunLease(folder) as lease:
        EventLog(folder, lease.owner).append([{"kind": "a"}])
        taken = folder.read_json("lease.json") | {"owner": "other", "host": "far-away"}
        assert folder.read_json("lease.json")["owner"] == lease.owner
    assert "lease.json" not in folder.names()
    folder.write_json("lease.json", taken)
    with pytest.raises(ValueError, match=r"taken over by process .* on far-away"):
        EventLog(folder, lease.owner).append([{"kind": "b"}])
