"""Probe lanes on a real Ray: equal curves on every kind, and lanes that are killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ray.train import RunConfig, ScalingConfig

from ray_autolrs import AutoLRSTrainer
from tests.cluster.test_local_run import events_without_times
from tests.cluster.test_ray_run import assert_bit_equal
from tests.digits_task import DigitsTask, short_config

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PARALLEL_PROBES = 4


def fit(path: Path, name: str, task=None, **settings):
    """Run with two workers, asking for four LRs at a time whatever the lanes."""
    (path / name).mkdir()
    record = {"kind": "lanes", "parallel_probes": PARALLEL_PROBES}
    (path / name / "events.jsonl").write_text(json.dumps(record) + "\n")
    trainer = AutoLRSTrainer(
        task or DigitsTask(),
        short_config(probes_per_stage=6, **settings),
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name=name, storage_path=str(path)),
    )
    return trainer.fit()


class Waits(DigitsTask):
    """Each forward pass waits, as for an accelerator: time enough for actors to start."""

    def loss(self, model, batch):
        if model.training:
            time.sleep(0.02)
        return super().loss(model, batch)


@pytest.fixture(scope="module")
def sequential(ray_cluster, tmp_path_factory):
    return fit(tmp_path_factory.mktemp("storage"), "sequential")


def probes(result) -> dict[tuple[int, int], tuple[float, list[float]]]:
    return {
        (event["stage"], event["index"]): (event["lr"], event["losses"])
        for event in events_without_times(Path(result.path))
        if event["kind"] == "probe"
    }


def lanes(result) -> set[str]:
    return {event["lane"] for event in result.events if event["kind"] == "probe"}


def test_workers_alone_give_the_curves_of_the_group(sequential, tmp_path):
    result = fit(tmp_path, "workers", probe_lanes="workers")
    assert lanes(sequential) == {"all workers"}
    assert lanes(result) == {"worker-0", "worker-1"}
    assert len(probes(result)) == 18
    assert probes(result) == probes(sequential)  # with BatchNorm and dropout, to the last bit
    assert_bit_equal(result, sequential)


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


def test_killed_actors_change_nothing(sequential, ray_cluster, tmp_path):
    killed: list[int] = []
    ended = threading.Event()

    def kill_at_random() -> None:
        order = random.Random(0)
        while not ended.wait(order.uniform(0.5, 2.0)) and len(killed) < 4:
            running = ray_processes("ray::ProbeActor.run", ray_cluster)
            if running:
                killed.append(order.choice(running))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)

    # The first actors are to be seen at work before one is killed.
    log = tmp_path / "actors" / "events.jsonl"

    def watch() -> None:
        while not ended.is_set() and not (log.exists() and "actor-" in log.read_text()):
            time.sleep(0.05)
        kill_at_random()

    killer = threading.Thread(target=watch, daemon=True)
    killer.start()
    result = fit(tmp_path, "actors", Waits(), probe_lanes="actors", probe_actors=3)
    ended.set()
    killer.join(timeout=10)
    assert len(killed) >= 2
    assert any(lane.startswith("actor-") for lane in lanes(result))
    assert any(lane.startswith("worker-") for lane in lanes(result))
    assert probes(result) == probes(sequential)
    assert_bit_equal(result, sequential)
    told = [(e["stage"], e["index"]) for e in result.events if e["kind"] == "probe"]
    assert len(told) == len(set(told)) == 18
    assert ray_processes("ray::ProbeActor", ray_cluster) == []


LOST_NODE = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from tests.cluster.test_ray_lanes import Waits, fit

path, temporary = Path(sys.argv[1]), sys.argv[2]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "temp_dir": temporary})
node = cluster.add_node(num_cpus=1, resources={"probe_slot": 2})
ray.init(address=cluster.address, log_to_driver=False)

def remove():
    log = path / "lost" / "events.jsonl"
    while not (log.exists() and "actor-" in log.read_text()):
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    (path / "removed").touch()

threading.Thread(target=remove, daemon=True).start()
fit(
    path, "lost", Waits(), probe_lanes="actors", probe_actors=2,
    resources_per_probe_actor={"probe_slot": 1},
)
ray.shutdown()
cluster.shutdown()
"""


def test_lost_node_changes_nothing(sequential, tmp_path, tmp_path_factory):
    """The node that holds all probe actors goes away for good; the workers probe on."""
    ran = subprocess.run(
        [sys.executable, "-c", LOST_NODE, str(tmp_path), str(tmp_path_factory.mktemp("ray"))],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "removed").exists()
    events = events_without_times(tmp_path / "lost")
    found = {
        (event["stage"], event["index"]): (event["lr"], event["losses"])
        for event in events
        if event["kind"] == "probe"
    }
    assert found == probes(sequential)
    assert any(event.get("lane", "").startswith("actor-") for event in events)
