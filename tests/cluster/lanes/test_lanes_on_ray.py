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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

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
from tests.cluster.ray_tasks import NoRoom, Waits
from tests.digits_task import DigitsTask, short_config

# On two cores with five other programs the longest of these took 300 s, its fixtures included.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


def test_workers_alone_give_the_curves_of_the_group(undisturbed, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        result = trainer(tmp_path, lanes=Lanes(kind="workers")).fit()
    told = "probe lanes: workers, 2 at once (lanes.kind='workers', 4 actors of 1 CPU fit now; "
    assert any(message.startswith(told) for message in caplog.messages)
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


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 240
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def assert_gone(title: str, session: Path) -> None:
    """Ray sends SIGKILL and does not wait; the kernel needs a moment to end a process."""
    wait_until(lambda: not ray_processes(title, session))


def test_killed_actors_change_nothing(undisturbed, ray_cluster, tmp_path):
    killed: list[int] = []
    ended = threading.Event()
    enough = tmp_path / "two were killed"
    log = tmp_path / "run" / "events.jsonl"

    def kill_two_at_random() -> None:
        # The first actors are to be seen at work before one is killed.
        while not ended.is_set() and not (log.exists() and "actor-" in log.read_text()):
            time.sleep(0.05)
        order = random.Random(0)
        while len(killed) < 2 and not ended.wait(order.uniform(0.5, 2.0)):
            running = ray_processes("ray::ProbeActor.run", ray_cluster)
            if running:
                killed.append(order.choice(running))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)
        enough.touch()

    killer = threading.Thread(target=kill_two_at_random, daemon=True)
    killer.start()
    result = trainer(tmp_path, task=Waits(enough), lanes=Lanes(kind="actors", actors=3)).fit()
    ended.set()
    killer.join(timeout=10)
    assert len(killed) == 2
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
        wait_until(lambda: len(ray_processes("ray::ProbeActor.run", ray_cluster)) == 2)
        groups = [group.id.hex() for group in pool._groups]
        assert all(any(group in name for name in ray.available_resources()) for group in groups)
        os.kill(ray_processes("ray::ProbeActor.run", ray_cluster)[0], signal.SIGKILL)
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


def test_actor_that_cannot_be_built_is_given_up(ray_cluster, tmp_path, caplog):
    """The workers probe on by themselves, as after a lost node."""
    run = lane_run(tmp_path, NoRoom(), actors=1)
    shelf = start_beside_driver(SnapshotShelf, "snapshots-pool")
    with ProbePool(run, shelf):
        wait_until(lambda: "no probe actor is left" in caplog.text)
    assert caplog.text.count("no room for a model; given back: none; given up") == 1
    assert caplog.text.count("no probe actor is left: the training workers probe on") == 1


@pytest.fixture
def node_of_probes(ray_cluster, tmp_path):
    """A node more, with room for two probe actors; gives the process that holds it."""
    address = ray.get_runtime_context().gcs_address
    options = [f"--address={address}", "--num-cpus=0", '--resources={"probe_slot": 2}', "--block"]
    log = tmp_path / "ray-start"
    with log.open("wb") as output:
        node = subprocess.Popen(
            [str(Path(sys.executable).parent / "ray"), "start", *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "probe_slot" in ray.cluster_resources() or node.poll() is not None)
        assert node.poll() is None, log.read_text()
        yield node
    finally:
        kill_node(node)
        # No test that follows is to find it.
        wait_until(lambda: "probe_slot" not in ray.cluster_resources())


def kill_node(node: subprocess.Popen[bytes]) -> None:
    """Kill all of a node's processes at once, as where its power is gone."""
    if node.poll() is None:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()


def test_lost_node_changes_nothing(undisturbed, node_of_probes, tmp_path):
    """The node that holds all probe actors goes away for good; the workers probe on."""
    removed = tmp_path / "removed"
    log = tmp_path / "lost" / "events.jsonl"

    def remove() -> None:
        wait_until(lambda: log.exists() and "actor-" in log.read_text())
        kill_node(node_of_probes)
        removed.touch()

    thread = threading.Thread(target=remove, daemon=True)
    thread.start()
    two = Lanes(kind="actors", actors=2, resources={"probe_slot": 1})
    result = trainer(tmp_path, "lost", Waits(removed), lanes=two).fit()
    thread.join(timeout=60)
    assert removed.exists()
    assert probes(result.path) == probes(undisturbed.path)
    assert any(lane.startswith("actor-") for lane in lanes(result))
    assert_bit_equal(result, undisturbed)
