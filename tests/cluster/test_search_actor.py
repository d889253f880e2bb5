"""Lanes as threads around a search actor in this process: who is given what, and when."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter

import pytest

from ray_autolrs import GaussianProcess, Warmup
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Finish, Probe, ProbeDone, Ready
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from ray_autolrs.cluster import search_actor
from ray_autolrs.cluster.lanes.leases import Idle, Leases, Over
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_actor import SearchActor
from tests.digits_task import short_config

CONFIG = short_config(
    search=GaussianProcess(probes=6, validation_evals=8), warmup=Warmup(steps=0), total_steps=240
).resolve(global_batch_size=32)


def probe_done(probe: Probe, *, diverged=False) -> ProbeDone:
    lr = probe.segment.peak_lr
    loss = 2 + (math.log10(lr) + 1) ** 2
    losses = tuple(loss + math.exp(-step) for step in range(8))
    return ProbeDone(
        probe.stage, probe.index, (9.0, *losses[1:]), losses[: probe.evals], diverged, 0.0
    )


def apply_done(command: Apply) -> ApplyDone:
    evaluations = ((command.segment.last_step + 1, "loss", 1.0),)
    losses = (1.0,) * command.steps
    return ApplyDone(command.stage, command.attempt, losses, False, 0.0, evaluations)


def actor(path, parallel_probes=3) -> SearchActor:
    return SearchActor(CONFIG, RunFolder(str(path), "run"), parallel_probes)


def run_lanes(made: SearchActor, lanes: int, delay) -> list[tuple[str, int, int]]:
    """Run a whole search with lanes in threads; return (lane, stage, index) of each probe run."""
    ran = []

    def lane(name: str, *, stays: bool) -> None:
        told = None
        while True:
            assignment = made.pull(name, told, stays=stays)
            told = None
            if isinstance(assignment, Over):
                return
            if isinstance(assignment, Probe):
                ran.append((name, assignment.stage, assignment.index))
                time.sleep(delay())
                told = probe_done(assignment)

    extra = [
        threading.Thread(target=lane, args=(f"actor-{number}",), kwargs={"stays": True})
        for number in range(lanes - 1)
    ]
    for thread in extra:
        thread.start()
    command = made.exchange(Ready(0))
    while not isinstance(command, Finish):
        if isinstance(command, Apply):
            command = made.exchange(apply_done(command))
        else:
            lane("worker-0", stays=False)
            command = made.exchange(None)
    for thread in extra:
        thread.join(timeout=10)
        assert not thread.is_alive()
    return ran


def schedule(made: SearchActor):
    return [segment.peak_lr for segment in made._state.segments]


def test_actors_wait_until_a_worker_has_pulled(tmp_path):
    """Until then the workers may still be about to search the stage together."""
    made = actor(tmp_path)
    assert made.pull("actor-0", None, stays=True) == Idle()
    command = made.exchange(Ready(0))
    assert made.pull("actor-0", None, stays=True) == Idle()
    assert made.waiting_lanes(1) == 1
    assert made.pull("worker-0", None, stays=False) == command
    third = made.pull("actor-0", None, stays=True)
    assert isinstance(third, Probe)
    assert third.index == 1
    assert (made.waiting_lanes(1), made.waiting_lanes(2)) == (1, 0)


@pytest.fixture(autouse=True)
def quick_answers(monkeypatch):
    monkeypatch.setattr(search_actor, "PULL_TIMEOUT_S", 0.05)


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """The LRs that one lane finds, which nothing happens to."""
    made = actor(tmp_path_factory.mktemp("steady"))
    run_lanes(made, 1, lambda: 0.0)
    return schedule(made)


@pytest.mark.parametrize(("lanes", "seed"), [(1, 0), (3, 0), (3, 1), (5, 1)])
def test_schedule_does_not_depend_on_lanes_or_their_speed(tmp_path, steady, lanes, seed):
    slowed = random.Random(seed)
    made = actor(tmp_path / "slowed")
    ran = run_lanes(made, lanes, lambda: slowed.choice([0.0, 0.003, 0.02]))
    assert schedule(made) == steady
    assert sorted((stage, index) for _, stage, index in ran) == [
        (stage, index) for stage in (1, 2) for index in range(6)
    ]


def test_lanes_share_the_probes(tmp_path):
    # None ends its probe before the other two have one as well.
    all_have_one = threading.Barrier(3)

    def wait() -> float:
        all_have_one.wait(timeout=10)
        return 0.0

    ran = run_lanes(actor(tmp_path, parallel_probes=6), 3, wait)
    assert Counter(name for name, _, _ in ran) == {"worker-0": 4, "actor-0": 4, "actor-1": 4}


def test_waiting_lane_is_told_to_ask_again(tmp_path):
    made = actor(tmp_path, parallel_probes=1)
    made.exchange(Ready(0))
    assert isinstance(made.pull("a", None, stays=False), Probe)
    assert made.pull("b", None, stays=True) == Idle()


def test_lost_lane_gives_its_probe_to_the_next(tmp_path):
    made = actor(tmp_path, parallel_probes=1)
    made.exchange(Ready(0))
    probe = made.pull("a", None, stays=False)
    assert isinstance(probe, Probe)
    assert made.give_back("a") == [(1, 0)]
    assert made.give_back("a") == []
    assert made.pull("b", None, stays=True) == probe
    # The lost one was only slow: its result counts, and the other's does not count twice.
    first = made.pull("a", probe_done(probe), stays=True)
    second = made.pull("b", probe_done(probe), stays=True)
    assert isinstance(first, Probe)
    assert (first.index, second) == (1, Idle())
    records, _ = made.poll(0)
    assert [(r["index"], r["lane"]) for r in records if r["kind"] == "probe"] == [(0, "a")]


def test_restarted_lane_gets_the_probe_that_it_lost(tmp_path):
    made = actor(tmp_path)
    made.exchange(Ready(0))
    assert made.pull("a", None, stays=True) == made.pull("a", None, stays=True)


def test_restarted_workers_lose_their_probes_and_actors_keep_theirs(tmp_path):
    made = actor(tmp_path)
    made.exchange(Ready(0))
    lost = made.pull("worker-0", None, stays=False)
    kept = made.pull("actor-0", None, stays=True)
    made.exchange(Ready(0))
    assert made.pull("worker-1", None, stays=False) == lost
    third = made.pull("worker-0", None, stays=False)
    assert isinstance(third, Probe)
    assert third not in (lost, kept)


def test_new_actor_goes_on_where_the_log_ends(tmp_path, steady):
    made = actor(tmp_path / "made")
    made.exchange(Ready(0))
    first = made.pull("a", None, stays=False)
    second = made.pull("b", None, stays=True)
    assert isinstance(first, Probe)
    assert isinstance(second, Probe)
    made.pull("a", probe_done(first), stays=True)
    # The actor dies; the answer to what "b" tells is lost with it, and told again.
    made = actor(tmp_path / "made", parallel_probes=1)
    made.pull("b", probe_done(second), stays=True)
    made.give_back("b")  # it got another probe, and is not heard of again
    run_lanes(made, 2, lambda: 0.0)
    assert schedule(made) == steady


def test_search_that_fails_tells_the_lane(tmp_path):
    made = actor(tmp_path, parallel_probes=6)
    made.exchange(Ready(0))
    told = None
    for _ in range(6):
        probe = made.pull("a", told, stays=False)
        assert isinstance(probe, Probe)
        told = probe_done(probe, diverged=True)
    with pytest.raises(SearchFailedError, match="every LR tried in stage 1 diverged"):
        made.pull("a", told, stays=False)


def test_lease_is_given_to_one_lane_only():
    leases = Leases()
    waiting = [Probe(1, index, None) for index in range(2)]  # type: ignore[arg-type]
    assert leases.take("a", waiting) == waiting[0]
    assert leases.take("b", waiting) == waiting[1]
    assert leases.take("c", waiting) is None
    assert leases.lanes("a") == ["a"]
    assert leases.give_back(["a", "c"]) == [(1, 0)]
    assert leases.take("c", waiting) == waiting[0]
