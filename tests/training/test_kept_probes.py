"""A stage that goes on from the end of its best probe is the stage that takes every step again."""

from __future__ import annotations

from typing import Any

import pytest

from ray_autolrs.algorithm.schedules.run_shape import run_shape
from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Probe, ProbeDone
from ray_autolrs.training.worker import Worker
from tests.training.test_averaging import averages
from tests.training.toy import ToyTask, assert_same, make_worker, state_of

SETTINGS: dict[str, dict[str, Any]] = {
    "paper": {},
    "schedule_free": {"averaging": "schedule_free", "shape": "wsd", "warmup_steps": 0},
    "ema": {"averaging": "ema", "shape": "cosine"},
}
STEPS = 12


def silent(done: int, loss: float) -> None:
    return


def segment(worker: Worker, lr: float, steps: int = STEPS, first_step: int = 0) -> Segment:
    return Segment(first_step, first_step + steps - 1, lr, run_shape(worker.config))


def probe(
    worker: Worker,
    index: int,
    lr: float,
    *,
    best: int | None = None,
    stage: int = 1,
    first_step: int = 0,
    evals: int = 1,
) -> ProbeDone:
    tried = segment(worker, lr, first_step=first_step)
    return worker.run_probe(Probe(stage, index, tried, evals, best), silent)


def apply(
    worker: Worker,
    lr: float,
    best: int | None,
    *,
    stage: int = 1,
    first_step: int = 0,
    steps: int = 30,
) -> ApplyDone:
    wanted = segment(worker, lr, steps, first_step)
    return worker.run_apply(Apply(stage, wanted, best), silent)


def worker_of(name: str, **overrides: Any) -> Worker:
    return make_worker(ToyTask(augment=True), **(SETTINGS[name] | overrides))


def search(worker: Worker) -> None:
    """Three probes, of which the second promises most."""
    probe(worker, 0, 0.01)
    probe(worker, 1, 0.1, best=0)
    probe(worker, 2, 0.3, best=1)


@pytest.mark.parametrize("name", SETTINGS)
def test_going_on_from_a_probe_gives_the_same_bits(name: str):
    kept, again = worker_of(name), worker_of(name)
    for worker in (kept, again):
        search(worker)
    again._kept.forget()
    one, other = apply(kept, 0.1, best=1), apply(again, 0.1, best=1)
    assert (one.reused_steps, other.reused_steps) == (STEPS, 0)
    assert one.losses == other.losses
    assert len(one.losses) == 30
    assert one.evaluations == other.evaluations
    assert_same(state_of(kept.replica), state_of(again.replica))
    if name != "paper":
        assert_same(averages(kept), averages(again))
    # What was kept is whole still: a stage may be applied again, after a failure.
    assert apply(kept, 0.1, best=1).losses == one.losses


@pytest.mark.parametrize(
    ("index", "lr", "reused"),
    [
        (1, 0.1, STEPS),  # the best so far was kept
        (2, 0.3, STEPS),  # the latest always is
        (0, 0.01, 0),  # neither
        (None, 0.2, 0),  # no probe had this LR
    ],
)
def test_the_best_and_the_latest_are_kept(index: int | None, lr: float, reused: int):
    worker, plain = worker_of("paper"), worker_of("paper")
    search(worker)
    done = apply(worker, lr, best=index)
    assert done.reused_steps == reused
    assert done.losses == apply(plain, lr, best=None).losses


def test_the_best_outlives_many_others():
    worker = worker_of("paper")
    probe(worker, 0, 0.01)
    for index in range(1, 6):
        probe(worker, index, 0.3 / index, best=0)
    assert apply(worker, 0.01, best=0).reused_steps == STEPS


def test_a_diverged_probe_takes_no_one_s_place():
    worker = worker_of("paper")
    probe(worker, 0, 0.1)
    assert probe(worker, 1, 1e200, best=0).diverged
    assert apply(worker, 0.1, best=0).reused_steps == STEPS


@pytest.mark.parametrize(
    ("every", "reused"), [(None, STEPS), (STEPS, STEPS), (STEPS - 1, 0), (5, 0)]
)
def test_an_evaluation_within_the_probe_takes_its_steps_again(every: int | None, reused: int):
    worker = worker_of("schedule_free", eval_every_steps=every)
    plain = worker_of("schedule_free", eval_every_steps=every)
    search(worker)
    done, expected = apply(worker, 0.1, best=1), apply(plain, 0.1, best=None)
    assert done.reused_steps == reused
    assert (done.losses, done.evaluations) == (expected.losses, expected.evaluations)
    assert_same(state_of(worker.replica), state_of(plain.replica))


def test_a_stage_as_long_as_the_probe_is_only_evaluated():
    worker = worker_of("paper")
    probe(worker, 0, 0.1)
    done = apply(worker, 0.1, best=0, steps=STEPS)
    assert (done.reused_steps, len(done.losses), len(done.evaluations)) == (STEPS, STEPS, 2)


def test_nothing_is_kept_across_stages():
    worker, plain = worker_of("paper"), worker_of("paper")
    for one in (worker, plain):
        search(one)
        apply(one, 0.1, best=1)
        one.take_snapshot(30)
    # The same number of a probe, and the same LR, in the next stage.
    done = apply(worker, 0.1, best=1, stage=2, first_step=30)
    expected = apply(plain, 0.1, best=None, stage=2, first_step=30)
    assert done.reused_steps == 0
    assert done.losses == expected.losses

    worker.take_snapshot(60)
    probe(worker, 0, 0.05, stage=3, first_step=60)
    assert apply(worker, 0.05, best=0, stage=3, first_step=60).reused_steps == STEPS


def test_probes_that_the_stage_does_not_begin_with_are_not_kept():
    """Those of the search before the first step have a warm-up of their own."""
    worker = worker_of("schedule_free", shape="constant", warmup_steps=20, search="halving")
    wanted = run_shape(worker.config)
    assert wanted.factor(0) < 1
    worker.run_probe(Probe(1, 0, Segment(0, STEPS - 1, 0.1), 1), silent)
    done = apply(worker, 0.1, best=0)
    assert done.reused_steps == 0


def test_a_probe_of_a_worker_alone_is_not_kept():
    worker = worker_of("paper")
    tried = segment(worker, 0.1)
    worker.run_probe(Probe(1, 0, tried, 1), silent, alone=True)
    assert apply(worker, 0.1, best=0).reused_steps == 0


def test_progress_and_divergence_are_looked_at_after_the_kept_steps():
    worker = worker_of("paper", divergence_check_steps=10)
    search(worker)
    told: list[int] = []
    worker.run_apply(Apply(1, segment(worker, 0.1, 30), 1), lambda done, loss: told.append(done))
    assert told == [20, 30]
