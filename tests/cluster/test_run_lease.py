"""One run, one process: leases on local disks and on storage that is reached through Arrow."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pyarrow import fs

from ray_autolrs.cluster import run_lease
from ray_autolrs.cluster.event_log import EventLog
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.run_lease import RunLease
from tests.cluster.tiny_runs import TinyTask, checkpoints, read_lines, step_of, tiny_trainer

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    if request.param == "local":
        return RunFolder(str(tmp_path), "job")
    return RunFolder("runs", "job", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))


def lease_of_process(folder: RunFolder, pid: int, **changes: object) -> None:
    """Leave a lease as a process does that was killed."""
    with RunLease(folder):
        lease = folder.read_json("lease.json")
    folder.write_json(
        "lease.json",
        lease | {"owner": "somebody", "pid": pid, "started": run_lease._start(pid)} | changes,
    )


def test_a_held_folder_is_refused_and_free_afterwards(folder):
    with RunLease(folder):
        with pytest.raises(ValueError, match=rf"job is being trained by process {os.getpid()} on"):
            RunLease(folder).__enter__()
        assert folder.names() == ["lease.json"]
    assert folder.names() == []
    with RunLease(folder):
        pass


def test_an_error_frees_the_folder(folder):
    with pytest.raises(KeyboardInterrupt), RunLease(folder):
        raise KeyboardInterrupt
    assert folder.names() == []


def test_the_lease_of_a_process_that_lives_is_kept(folder):
    lease_of_process(folder, os.getppid())
    with pytest.raises(ValueError, match=f"by process {os.getppid()} on {socket.gethostname()}"):
        RunLease(folder).__enter__()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(folder):
    process = subprocess.Popen(["sleep", "60"])
    lease_of_process(folder, process.pid)
    process.kill()  # Not waited for: it stays in the list of processes as a zombie.
    time.sleep(0.2)
    started_s = time.monotonic()
    with RunLease(folder):
        assert time.monotonic() - started_s < 2
    process.wait()
    lease_of_process(folder, process.pid)
    with RunLease(folder):
        pass


def test_a_number_that_another_process_got_since_holds_no_lease(folder):
    lease_of_process(folder, os.getppid(), started="1")
    with RunLease(folder):
        pass
    lease_of_process(folder, os.getpid())  # as process 1 of a container that was started again
    with RunLease(folder):
        pass


def test_a_lease_of_another_machine_is_taken_over_after_the_stated_time(folder, monkeypatch):
    monkeypatch.setattr(run_lease, "STALE_S", 0.5)
    lease_of_process(folder, 1, machine="elsewhere")
    started_s = time.monotonic()
    with RunLease(folder):
        assert time.monotonic() - started_s > 0.5


def test_a_lease_of_another_machine_that_counts_on_is_kept(folder, monkeypatch):
    monkeypatch.setattr(run_lease, "STALE_S", 30.0)
    lease_of_process(folder, 1, machine="elsewhere", host="far-away", beats=1)
    beat = {"machine": "elsewhere", "host": "far-away", "beats": 2, "owner": "somebody"}
    lease = folder.read_json("lease.json")
    timer = threading.Timer(0.3, folder.write_json, ("lease.json", lease | beat))
    timer.start()
    with pytest.raises(ValueError, match="being trained by process 1 on far-away"):
        RunLease(folder).__enter__()
    timer.join()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"owner": 1}', b"[" * 100_000])
def test_a_lease_that_says_nothing_holds_nothing(folder, content):
    folder.write("lease.json", content)
    with RunLease(folder) as lease:
        assert folder.read_json("lease.json")["owner"] == lease.owner
    assert folder.names() == []


def test_it_counts_on_while_it_is_held(folder, monkeypatch):
    monkeypatch.setattr(run_lease, "BEAT_INTERVAL_S", 0.05)

    def beats():
        while True:  # The store of a test has half a file for a moment.
            with contextlib.suppress(ValueError):
                return folder.read_json("lease.json")["beats"]

    with RunLease(folder):
        before = beats()
        time.sleep(0.5)
        assert beats() > before


def test_who_has_lost_the_lease_writes_no_log(folder, caplog, monkeypatch):
    monkeypatch.setattr(run_lease, "BEAT_INTERVAL_S", 0.05)
    with RunLease(folder) as lease:
        log = EventLog(folder, lease.owner)
        log.append([{"kind": "a"}])
        other = folder.read_json("lease.json") | {"owner": "other", "host": "far-away"}
        folder.write_json("lease.json", other)
        time.sleep(0.5)
        with pytest.raises(ValueError, match=r"was taken over by process .* on far-away"):
            log.append([{"kind": "b"}])
    assert "cannot go on with it" in caplog.text
    assert folder.read_json("lease.json") == other
    assert [record["kind"] for record in EventLog(folder).records] == ["a"]


def test_of_many_at_the_same_moment_one_goes_on(tmp_path):
    folder = RunFolder(str(tmp_path), "job")
    start, stop = threading.Barrier(8), threading.Barrier(8)
    outcomes: list[str] = []

    def hold() -> None:
        start.wait()
        try:
            with RunLease(folder):
                outcomes.append("held")
                stop.wait()
        except ValueError:
            outcomes.append("refused")
            stop.wait()

    threads = [threading.Thread(target=hold) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held"] + 7 * ["refused"]


class Waits(TinyTask):
    """Its first step waits until a file is there."""

    def __init__(self, gate: Path) -> None:
        super().__init__()
        self.gate = gate

    def loss(self, model, batch):
        self.gate.with_name("reached").touch()
        while not self.gate.exists():
            time.sleep(0.01)
        return super().loss(model, batch)


JOB = """
import sys
from pathlib import Path
from tests.cluster.test_run_lease import Waits
from tests.cluster.tiny_runs import tiny_trainer
storage = Path(sys.argv[1])
tiny_trainer(storage, Waits(storage / "gate"), "job").fit()
"""


def test_a_run_of_another_process_is_refused_and_once_it_is_killed_continued(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path)], cwd=ROOT)
    try:
        deadline_s = time.monotonic() + 120
        while not (tmp_path / "reached").exists():
            assert other.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        with pytest.raises(ValueError, match=rf"job is being trained by process {other.pid} on"):
            tiny_trainer(tmp_path, name="job").fit()
    finally:
        other.kill()
    result = tiny_trainer(tmp_path, name="job").fit()
    events = [json.loads(line) for line in read_lines(tmp_path / "job")]
    keys = [(e["kind"], e["stage"], e.get("index")) for e in events if "stage" in e]
    assert len(keys) == len(set(keys))
    assert step_of(checkpoints(tmp_path, "job")[-1]) == 100
    assert not (tmp_path / "job" / "lease.json").exists()
    assert result.metrics["loss"] < 1
    other.wait()
