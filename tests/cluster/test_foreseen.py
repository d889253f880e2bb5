"""Probes that lanes run ahead of the default's search: the schedule is that of one after the other.

Lanes are threads around a search actor in this process.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from ray_autolrs import AutoLRSConfig, Bracket, Stages
from ray_autolrs.algorithm.stages.foreseen import foreseen
from ray_autolrs.algorithm.stages.messages import FORESEEN, Apply, Finish, Probe, Ready
from ray_autolrs.cluster import search_actor
from ray_autolrs.cluster.lanes.leases import Idle
from ray_autolrs.cluster.run_folder import RunFolder
from ray_autolrs.cluster.search_actor import SearchActor
from ray_autolrs.report.costs import count_costs
from tests.cluster.test_search_actor import apply_done, probe_done, run_lanes, schedule

CONFIG = AutoLRSConfig(
    total_steps=200,
    lr=(1e-3, 1.0),
    search=Bracket(probe_steps=12),
    stages=Stages(longest_steps=80),
).resolve(global_batch_size=32)


@pytest.fixture(autouse=True)
def quick_answers(monkeypatch):
    monkeypatch.setattr(search_actor, "PULL_TIMEOUT_S", 0.05)


def actor(path) -> SearchActor:
    return SearchActor(CONFIG, RunFolder(str(path), "run"), 2)


def lrs_asked(made: SearchActor) -> list[float]:
    records, _ = made.poll(0)
    probes = sorted((r["index"], r["peak_lr"]) for r in records if r["kind"] == "probe")
    return [lr for _, lr in probes]


def pulled(made: SearchActor, lane: str) -> Probe:
    """The probe that an idle lane gets."""
    probe = made.pull(lane, None, stays=lane != "worker-0")
    assert isinstance(probe, Probe)
    return probe


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    """A search by all workers together, and what it costs."""
    made = actor(tmp_path_factory.mktemp("together"))
    command = made.exchange(Ready(0))
    while not isinstance(command, Finish):
        done = apply_done(command) if isinstance(command, Apply) else probe_done(command)
        command = made.exchange(done)
    return made


@pytest.mark.parametrize(("lanes", "seed"), [(2, 0), (3, 1), (6, 2), (10, 3)])
def test_lanes_that_run_ahead_leave_the_schedule_as_it_is(tmp_path, one_by_one, lanes, seed):
    slowed = random.Random(seed)
    made = actor(tmp_path)
    ran = run_lanes(made, lanes, lambda: slowed.choice([0.0, 0.003, 0.02]))
    assert schedule(made) == schedule(one_by_one)
    assert lrs_asked(made) == lrs_asked(one_by_one)
    records, _ = made.poll(0)
    # All that was run is counted once, whether it was asked for or not.
    told = [r for r in records if r["kind"] == "foreseen"]
    asked = [r for r in records if r["kind"] == "probe" and not r.get("foreseen")]
    assert count_costs(records).probe_steps == sum(r["steps"] for r in told + asked)
    assert len(told) + len(asked) <= len(ran)


def test_six_lanes_try_the_whole_bracket_at_once(tmp_path, one_by_one):
    made = actor(tmp_path)
    made.exchange(Ready(0))
    names = ["worker-0", *(f"actor-{n}" for n in range(5))]
    given = [pulled(made, name) for name in names]
    assert [probe.index for probe in given] == [0, 1, *[FORESEEN] * 4]
    assert len({probe.segment.peak_lr for probe in given}) == 6
    assert made.pull("actor-5", None, stays=True) == Idle()
    for name, probe in reversed([*zip(names, given, strict=True)]):
        made.pull(name, probe_done(probe), stays=name != "worker-0")
    assert isinstance(made.exchange(None), Apply)
    assert lrs_asked(made) == lrs_asked(one_by_one)
    records, _ = made.poll(0)
    (choice,) = (r for r in records if r["kind"] == "choice")
    assert choice["lanes"] == 6
    lanes = {r["peak_lr"]: r["lane"] for r in records if r["kind"] == "probe"}
    assert lanes == {
        probe.segment.peak_lr: name
        for name, probe in zip(names, given, strict=True)
        if probe.segment.peak_lr in lrs_asked(made)
    }


def test_what_was_run_ahead_outlives_the_search_actor(tmp_path):
    def begin(made: SearchActor) -> Probe:
        made.exchange(Ready(0))
        pulled(made, "worker-0")
        pulled(made, "actor-0")
        return pulled(made, "actor-1")

    made = actor(tmp_path)
    ahead = begin(made)
    made.pull("actor-1", probe_done(ahead), stays=True)
    assert begin(actor(tmp_path)).segment != ahead.segment


def test_a_worker_runs_nothing_ahead_that_the_others_would_wait_for(tmp_path):
    made = actor(tmp_path)
    made.exchange(Ready(0))
    first = pulled(made, "worker-0")
    pulled(made, "actor-0")
    made.pull("worker-0", probe_done(first), stays=False)
    assert made.pull("worker-0", None, stays=False) == Idle()
    assert pulled(made, "actor-1").index == FORESEEN


def test_nothing_is_foreseen_outside_a_search(one_by_one):
    assert foreseen(CONFIG.plan(2), one_by_one._state) == ()


def test_a_stage_that_diverged_is_searched_again_as_if_it_were_another(tmp_path):
    """Nothing of the first search's grid is run ahead, and actors wait for a worker anew."""
    made = actor(tmp_path)
    command = made.exchange(Ready(0))
    pulled(made, "worker-0")
    while isinstance(command, Probe):
        command = made.exchange(probe_done(command))
    assert isinstance(command, Apply)
    below = made.exchange(replace(apply_done(command), diverged=True))
    assert isinstance(below, Probe)
    assert below.segment.peak_lr < command.segment.peak_lr
    assert made.pull("actor-0", None, stays=True) == Idle()
    assert pulled(made, "worker-0") == below
    assert pulled(made, "actor-0").index == below.index + 1
    assert made.pull("actor-1", None, stays=True) == Idle()
