"""Probe lanes on a real Ray: equal curves on every kind, and lanes that are killed."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import nn

from ray_autolrs import Lanes
from ray_autolrs.algorithm.stages.messages import Ready
from ray_autolrs.cluster.driver_actor import start_beside_driver
from ray_autolrs.cluster.lanes.lane import LaneRun
from ray_autolrs.cluster.lanes.probe_pool import ProbePool
from ray_autolrs.cluster.lanes.snapshot_shelf import SnapshotShelf
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_actor import SearchActor
from ray_autolrs.training.transport import pack, unpack
from tests.cluster.ray_runs import assert_bit_equal, lanes, probes, trainer
from tests.digits_task import DigitsTask, short_config

# On two cores with five other programs the longest of these took 300 s, its fixtures included.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


class Waits(DigitsTask):
    """Each forward pass waits, as for an accelerator, until a file is there.

    Actors start in 5 s on idle cores and in a minute on busy ones. The file tells that what a
    test wants to see in the middle of a run has happened.
    """

    def __init__(self, until: Path) -> None:
        self.until = until

    def loss(self, model, batch):
        if model.training and not self.until.exists():
            time.sleep(0.15)
        return super().loss(model, batch)


def test_workers_alone_give_the_curves_of_the_group(undisturbed, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        result = trainer(tmp_path, lanes=Lanes(kind="workers")).fit()
    reason = "lanes.kind='workers', 4 actors of 1 CPU fit now"
    assert f"probe lanes: workers, 2 at once ({reason})" in caplog.messages
    assert lanes(undisturbed) == {"all workers"}
    assert lanes(result) == {"worker-0", "worker-1"}
    assert len(probes(result.path)) == 18
    # With BatchNorm and dropout, to the last bit.
    assert probes(result.path) == probes(undisturbed.path)
    assert_bit_equal(result, undisturbed)


def test_more_actors_than_the_cluster_can_hold_are_refused(ray_cluster, tmp_path):
    with pytest.raises(ValueError, match=r"lanes.actors=5 of 1 CPU each .* can hold 4; ask for"):
        trainer(tmp_path, lanes=Lanes(kind="actors", actors=5)).fit()


def ray_processes(title: str, session: Path) -> list[int]:
    """Processes of this Ray with such a title: children of the raylet that has its folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cmdline").read_bytes().startswith(title.encode()):
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if str(session).encode() in Path("/proc", parent, "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def assert_gone(title: str, session: Path) -> None:
    """Ray sends SIGKILL and does not wait; the kernel needs a moment to end a process."""
    deadline_s = time.monotonic() + 30
    while left := ray_processes(title, session):
        assert time.monotonic() < deadline_s, left
        time.sleep(0.05)


def test_killed_actors_change_nothing(undisturbed, ray_cluster, tmp_path):
    killed: list[int] = []
    ended = threading.Event()
    enough = tmp_path / "two were killed"

    def kill_at_random() -> None:
        order = random.Random(0)
        while not ended.wait(order.uniform(0.5, 2.0)) and len(killed) < 4:
            running = ray_processes("ray::ProbeActor.run", ray_cluster)
            if running:
                killed.append(order.choice(running))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)
            if len(killed) >= 2:
                enough.touch()

    # The first actors are to be seen at work before one is killed.
    log = tmp_path / "run" / "events.jsonl"

    def watch() -> None:
        while not ended.is_set() and not (log.exists() and "actor-" in log.read_text()):
            time.sleep(0.05)
        kill_at_random()

    killer = threading.Thread(target=watch, daemon=True)
    killer.start()
    result = trainer(tmp_path, task=Waits(enough), lanes=Lanes(kind="actors", actors=3)).fit()
    ended.set()
    killer.join(timeout=10)
    assert len(killed) >= 2
    assert any(lane.startswith("actor-") for lane in lanes(result))
    assert any(lane.startswith("worker-") for lane in lanes(result))
    assert probes(result.path) == probes(undisturbed.path)
    assert_bit_equal(result, undisturbed)
    told = [(e["stage"], e["index"]) for e in result.events if e["kind"] == "probe"]
    assert len(told) == len(set(told)) == 18
    assert_gone("ray::ProbeActor", ray_cluster)


def lane_run(path: Path, task: DigitsTask, actors: int) -> LaneRun:
    """A run whose first stage is searched, as the pool sees it: no worker has started."""
    config = short_config().resolve(global_batch_size=32)
    folder = RunFolder(str(path), "pool")
    search = start_beside_driver(SearchActor, "search-pool", config, folder, 1)
    ray.get(search.exchange.remote(Ready(0)))
    return LaneRun(
        name="pool",
        task=task,
        settings=config.training_settings(),
        num_workers=2,
        search=search,
        actors=actors,
        resources_per_actor={"CPU": 0.5},
    )


def test_pool_frees_what_it_held_also_of_actors_that_are_starting_again(ray_cluster, tmp_path):
    run = lane_run(tmp_path, DigitsTask(), actors=2)
    shelf = start_beside_driver(SnapshotShelf, "snapshots-pool")
    with ProbePool(run, shelf) as pool:
        deadline_s = time.monotonic() + 120
        while len(running := ray_processes("ray::ProbeActor.run", ray_cluster)) < 2:
            assert time.monotonic() < deadline_s, running
            time.sleep(0.05)
        groups = [group.id.hex() for group in pool._groups]
        assert all(any(group in name for name in ray.available_resources()) for group in groups)
        os.kill(running[0], signal.SIGKILL)
    assert not any(group in name for name in ray.available_resources() for group in groups)
    assert_gone("ray::ProbeActor", ray_cluster)
    time.sleep(2.0)  # An actor that had been killed too late would be back by now.
    assert ray_processes("ray::ProbeActor", ray_cluster) == []


class Offers:
    """In place of rank 0: puts a snapshot into the object store, and owns it."""

    def offer(self, shelf, step):
        packed = pack({"weight": torch.arange(1000.0) + step})
        ray.get(shelf.offer.remote(step, [ray.put(packed)]))


def test_snapshot_outlives_the_worker_that_put_it(ray_cluster):
    shelf = start_beside_driver(SnapshotShelf, "snapshots-offered")
    worker = start_beside_driver(Offers, "offers")
    ray.get(worker.offer.remote(shelf, 80))
    ray.kill(worker)
    assert_gone("ray::Offers", ray_cluster)
    holder: Any = ray.get(shelf.take.remote(80))
    weight = unpack(ray.get(holder[0]), torch.device("cpu"))["weight"]
    assert torch.equal(weight, torch.arange(1000.0) + 80)


class NoRoom(DigitsTask):
    """Cannot be built, as where the memory of an accelerator is full."""

    def build_model(self) -> nn.Module:
        raise MemoryError("no room for a model")


def test_actor_that_cannot_be_built_is_given_up(ray_cluster, tmp_path, caplog):
    """The workers probe on by themselves, as after a lost node."""
    run = lane_run(tmp_path, NoRoom(), actors=1)
    shelf = start_beside_driver(SnapshotShelf, "snapshots-pool")
    with ProbePool(run, shelf):
        deadline_s = time.monotonic() + 240
        while "no probe actor is left" not in caplog.text:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
    assert caplog.text.count("no room for a model; given back: none; given up") == 1
    assert caplog.text.count("no probe actor is left: the training workers probe on") == 1


LOST_NODE = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from ray_autolrs import Lanes
from tests.cluster.lanes.test_lanes_on_ray import Waits
from tests.cluster.ray_runs import trainer

path, temporary = Path(sys.argv[1]), sys.argv[2]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "temp_dir": temporary})
node = cluster.add_node(num_cpus=1, resources={"probe_slot": 2})
ray.init(address=cluster.address, log_to_driver=False)

removed = path / "removed"

def remove():
    log = path / "lost" / "events.jsonl"
    while not (log.exists() and "actor-" in log.read_text()):
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    removed.touch()

threading.Thread(target=remove, daemon=True).start()
lanes = Lanes(kind="actors", actors=2, resources={"probe_slot": 1})
trainer(path, "lost", Waits(removed), lanes=lanes).fit()
ray.shutdown()
cluster.shutdown()
"""


def test_lost_node_changes_nothing(undisturbed, tmp_path, tmp_path_factory):
    """The node that holds all probe actors goes away for good; the workers probe on."""
    temporary = tmp_path_factory.mktemp("ray")
    # Cluster writes its address to RAY_TMPDIR/ray, by default /tmp/ray: that folder may not be
    # there, and others on this machine read the address.
    (temporary / "ray").mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", LOST_NODE, str(tmp_path), str(temporary)],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"RAY_TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "removed").exists()
    assert probes(tmp_path / "lost") == probes(undisturbed.path)
    assert "actor-" in (tmp_path / "lost" / "events.jsonl").read_text()
