"""Runs on a real Ray, with two workers: equal curves, lost workers, a lost actor, a lost driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray

from ray_autolrs import Checkpoints
from tests.cluster.ray_runs import assert_bit_equal, trainer
from tests.digits_task import DigitsTask

# On two cores with five other programs the longest of these took 190 s, and its fixture 110 s.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


def test_two_workers_give_the_curves_of_one(undisturbed, tmp_path):
    alone = trainer(tmp_path, num_workers=0).fit()
    pairs = [
        (both["training_losses"], one["training_losses"])
        for both, one in zip(undisturbed.events, alone.events, strict=True)
        if both["kind"] in ("probe", "apply") and not both["diverged"]
    ]
    assert len(pairs) >= 12
    for both, one in pairs:
        assert both == pytest.approx(one, rel=1e-10)
    assert [segment.peak_lr for segment in undisturbed.schedule.segments] == pytest.approx(
        [segment.peak_lr for segment in alone.schedule.segments], rel=1e-10
    )
    assert undisturbed.metrics == pytest.approx(alone.metrics, rel=1e-8)


class KilledOnce(DigitsTask):
    """Its first process to reach a number of forward passes is killed, as by a lost machine."""

    def __init__(self, marker: Path, passes: int) -> None:
        self.marker = marker
        self.passes = passes

    def loss(self, model, batch):
        self.passes -= 1
        if self.passes == 0 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)


def test_a_lost_search_actor_and_a_lost_worker_change_nothing(undisturbed, tmp_path):
    """In one run: the actor is lost while the first stage is searched, a worker in the second."""
    actor_is_lost = threading.Event()

    def kill_actor() -> None:
        log = tmp_path / "lost" / "events.jsonl"
        while log.read_bytes().count(b"\n") <= 6:
            time.sleep(0.01)
        # The actors of runs that have ended may be in the list for a while.
        (name,) = (name for name in ray.util.list_named_actors() if "-search-lost" in name)
        ray.kill(ray.get_actor(name), no_restart=False)
        actor_is_lost.set()

    marker = tmp_path / "killed"
    stored = Checkpoints(every_steps=10)
    task = KilledOnce(marker, passes=230)
    run = trainer(tmp_path, "lost", task, max_failures=1, checkpoints=stored)
    thread = threading.Thread(target=kill_actor, daemon=True)
    thread.start()
    result = run.fit()
    thread.join(timeout=60)
    assert actor_is_lost.is_set()
    assert marker.exists()
    ready = [event["step"] for event in result.events if event["kind"] == "ready"]
    assert len(ready) == 2
    assert ready[1] > 0
    assert not list((tmp_path / "lost").glob("*tmp*"))
    assert len(list((tmp_path / "lost").glob("checkpoint_*"))) <= 2
    assert_bit_equal(result, undisturbed)
    probes = [(e["stage"], e["index"]) for e in result.events if e["kind"] == "probe"]
    assert probes == [(stage, index) for stage in (1, 2, 3) for index in range(6)]


DRIVER = """
import sys
from pathlib import Path
import ray
from tests.cluster.ray_runs import trainer
ray.init(address=sys.argv[2], log_to_driver=False)
trainer(Path(sys.argv[1])).fit()
"""


def test_lost_driver_continues_by_name(undisturbed, tmp_path):
    """Its workers and its search actor go with it; the cluster stays."""
    address = ray.get_runtime_context().gcs_address
    log = tmp_path / "run" / "events.jsonl"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), address],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 240
        while not (log.exists() and log.read_bytes().count(b"\n") > 8):
            assert driver.poll() is None, "the driver ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        driver.kill()
        driver.wait()
    kept = [json.loads(line) for line in log.read_bytes().splitlines()[:8]]
    result = trainer(tmp_path).fit()
    assert list(result.events[:8]) == kept
    assert_bit_equal(result, undisturbed)


def test_cluster_without_the_resources_is_refused(ray_cluster, tmp_path):
    task = DigitsTask()
    task.micro_batch_size = 4
    with pytest.raises(ValueError, match=r"too small for num_workers=8 \(CPU: 8 needed, 6 there\)"):
        trainer(tmp_path, task=task, num_workers=8).fit()


class NotFinite(DigitsTask):
    def loss(self, model, batch):
        return super().loss(model, batch) / 0


def test_error_of_a_worker_reaches_the_user_as_it_is(ray_cluster, tmp_path):
    with pytest.raises(ValueError, match=r"^step 0 cannot be trained on, .* the loss is inf"):
        trainer(tmp_path, task=NotFinite(), num_workers=1).fit()
