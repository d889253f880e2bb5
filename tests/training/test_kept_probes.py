"""A stage that goes on from the end of its best probe is the stage that takes every step again."""

from __future__ import annotations

from typing import Any

import pytest

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import Flat, Shape, WarmupCosine, WarmupStableDecay
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Probe, ProbeDone
from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.averaging.ema import EMA
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from tests.training.toy import ToyTask, assert_same, averages, make_worker, silent, state_of

CASES: dict[str, tuple[Averaging | None, Shape]] = {
    "paper": (None, Flat()),
    "schedule_free": (ScheduleFreeAverage(), WarmupStableDecay(0, 400, 0, 120)),
    "ema": (EMA(), WarmupCosine(0, 400)),
}
STEPS = 12


class Run:
    """A worker whose probes and stages have one shape."""

    def __init__(self, name: str = "paper", **settings: Any) -> None:
        averaging, self.shape = CASES[name]
        self.worker = make_worker(ToyTask(augment=True), averaging, **settings)

    def segment(self, lr: float, first_step: int, steps: int) -> Segment:
        return Segment(first_step, first_step + steps - 1, lr, self.shape)

    def probe(
        self,
        index: int,
        lr: float,
        *,
        best: int | None = None,
        stage: int = 1,
        first_step: int = 0,
        may_go_on: bool = True,
        alone: bool = False,
    ) -> ProbeDone:
        tried = self.segment(lr, first_step, STEPS)
        probe = Probe(stage, index, tried, evals=1, best=best, may_go_on=may_go_on)
        return self.worker.run_probe(probe, silent, alone=alone)

    def apply(
        self,
        lr: float,
        best: int | None,
        *,
        stage: int = 1,
        first_step: int = 0,
        steps: int = 30,
    ) -> ApplyDone:
        wanted = self.segment(lr, first_step, steps)
        return self.worker.run_apply(Apply(stage, wanted, best=best), silent)

    def search(self) -> None:
        """Three probes, of which the second promises most."""
        self.probe(0, 0.01)
        self.probe(1, 0.1, best=0)
        self.probe(2, 0.3, best=1)


@pytest.mark.parametrize("name", CASES)
def test_going_on_from_a_probe_gives_the_same_bits(name: str):
    kept, again = Run(name), Run(name)
    for run in (kept, again):
        run.search()
    again.worker._kept.forget()
    one, other = kept.apply(0.1, best=1), again.apply(0.1, best=1)
    assert (one.reused_steps, other.reused_steps) == (STEPS, 0)
    assert one.training_losses == other.training_losses
    assert len(one.training_losses) == 30
    assert one.evaluations == other.evaluations
    assert_same(state_of(kept.worker.replica), state_of(again.worker.replica))
    assert_same(averages(kept.worker), averages(again.worker))
    # What was kept is whole still: a stage may be applied again, after a failure.
    assert kept.apply(0.1, best=1).training_losses == one.training_losses


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
    run, plain = Run(), Run()
    run.search()
    done = run.apply(lr, best=index)
    assert done.reused_steps == reused
    assert done.training_losses == plain.apply(lr, best=None).training_losses


def test_the_best_outlives_many_others():
    run = Run()
    run.probe(0, 0.01)
    for index in range(1, 6):
        run.probe(index, 0.3 / index, best=0)
    assert run.apply(0.01, best=0).reused_steps == STEPS


def test_a_diverged_probe_takes_no_one_s_place():
    run = Run()
    run.probe(0, 0.1)
    assert run.probe(1, 1e200, best=0).diverged
    assert run.apply(0.1, best=0).reused_steps == STEPS


@pytest.mark.parametrize(
    ("every", "reused"), [(None, STEPS), (STEPS, STEPS), (STEPS - 1, 0), (5, 0)]
)
def test_an_evaluation_within_the_probe_takes_its_steps_again(every: int | None, reused: int):
    run = Run("schedule_free", every_steps=every)
    plain = Run("schedule_free", every_steps=every)
    run.search()
    done, expected = run.apply(0.1, best=1), plain.apply(0.1, best=None)
    assert done.reused_steps == reused
    assert done.training_losses == expected.training_losses
    assert done.evaluations == expected.evaluations
    assert_same(state_of(run.worker.replica), state_of(plain.worker.replica))


def test_a_stage_as_long_as_the_probe_is_only_evaluated():
    run = Run()
    run.probe(0, 0.1)
    done = run.apply(0.1, best=0, steps=STEPS)
    assert (done.reused_steps, len(done.training_losses), len(done.evaluations)) == (
        STEPS,
        STEPS,
        2,
    )


def test_nothing_is_kept_across_stages():
    run, plain = Run(), Run()
    for one in (run, plain):
        one.search()
        one.apply(0.1, best=1)
        one.worker.take_snapshot(30)
    # The same number of a probe, and the same LR, in the next stage.
    done = run.apply(0.1, best=1, stage=2, first_step=30)
    expected = plain.apply(0.1, best=None, stage=2, first_step=30)
    assert done.reused_steps == 0
    assert done.training_losses == expected.training_losses

    run.worker.take_snapshot(60)
    run.probe(0, 0.05, stage=3, first_step=60)
    assert run.apply(0.05, best=0, stage=3, first_step=60).reused_steps == STEPS


@pytest.mark.parametrize(("reason", "kept"), [({"may_go_on": False}, 0), ({"alone": True}, STEPS)])
def test_probes_of_another_shape_are_not_kept_and_those_of_the_only_worker_are(
    reason: dict[str, bool], kept: int
):
    run = Run()
    run.probe(0, 0.1, **reason)
    assert run.apply(0.1, best=0).reused_steps == kept


def test_progress_and_divergence_are_looked_at_after_the_kept_steps():
    run = Run(divergence_check_steps=10)
    run.search()
    told: list[int] = []
    command = Apply(1, run.segment(0.1, 0, 30), best=1)
    run.worker.run_apply(command, lambda done, loss: told.append(done))
    assert told == [20, 30]
