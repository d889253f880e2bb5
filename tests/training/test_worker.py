from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import WarmupStableDecay
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Probe, ProbeDone
from ray_autolrs.schedule import LRSchedule
from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.worker import Worker
from tests.training.toy import (
    ToyTask,
    assert_same,
    full_net,
    make_worker,
    sgd,
    silent,
    state_of,
    train,
)


def probe(worker: Worker, segment: Segment, *, evals: int = 0, index: int = 0) -> ProbeDone:
    return worker.run_probe(Probe(1, index, segment, evals), silent)


def apply(worker: Worker, segment: Segment, stage: int = 1) -> ApplyDone:
    return worker.run_apply(Apply(stage, segment), silent)


def test_a_probe_repeated_gives_the_same_bits():
    worker = make_worker(ToyTask(augment=True, micro_batch_size=8))
    first = probe(worker, Segment(0, 24, 0.1))
    other = probe(worker, Segment(0, 24, 0.3), index=1)
    again = probe(worker, Segment(0, 24, 0.1), index=2)
    assert first.training_losses == again.training_losses != other.training_losses
    assert first.first_loss == other.first_loss == first.training_losses[0]
    assert (first.stage, first.index, first.steps, first.diverged) == (1, 0, 25, False)
    assert (again.index, len(first.training_losses)) == (2, 25)
    assert first.wall_s > 0


def test_a_probe_is_the_beginning_of_the_stage_that_applies_its_lr():
    worker = make_worker(ToyTask(augment=True))
    apply(worker, Segment(0, 29, 0.05))
    worker.take_snapshot(30)
    tried = probe(worker, Segment(30, 49, 0.2))
    probe(worker, Segment(30, 49, 1.0))
    done = apply(worker, Segment(30, 79, 0.2))
    assert done.training_losses[:20] == tried.training_losses
    # Validation losses on the way do not disturb the training.
    probe(worker, Segment(30, 61, 0.2), evals=16)
    assert apply(worker, Segment(30, 79, 0.2)).training_losses == done.training_losses


def test_probing_does_not_change_what_is_applied():
    probed, unprobed = make_worker(ToyTask()), make_worker(ToyTask())
    for lr in (0.01, 0.1, 1e3):
        probe(probed, Segment(0, 15, lr))
    assert (
        apply(probed, Segment(0, 39, 0.1)).training_losses
        == apply(unprobed, Segment(0, 39, 0.1)).training_losses
    )
    assert_same(state_of(probed.replica), state_of(unprobed.replica))


def test_losses_are_those_of_the_step_before_its_update():
    worker = make_worker(ToyTask(micro_batch_size=4))
    losses = train(worker, 0, 12, lr=0.1)
    assert list(probe(worker, Segment(0, 11, 0.1)).training_losses) == losses


@pytest.mark.parametrize(
    ("steps", "at"),
    [(100, range(6, 97, 6)), (16, range(1, 17)), (40, range(2, 33, 2)), (10, range(1, 11))],
)
def test_a_validation_probe_tells_losses_taken_evenly(
    monkeypatch: pytest.MonkeyPatch, steps: int, at: range
):
    worker = make_worker(ToyTask(), probe_samples=10)
    asked: list[int] = []
    taken: list[int] = []
    real_step, real_run = worker.replica.take_step, worker.probe_evaluation().run

    def take_step(*args: Any, **options: Any) -> None:
        taken.append(args[0])
        real_step(*args, **options)

    def run(*args: Any, **options: Any) -> dict[str, float]:
        asked.append(len(taken))
        return real_run(*args, **options)

    monkeypatch.setattr(worker.replica, "take_step", take_step)
    monkeypatch.setattr(worker.probe_evaluation(), "run", run)
    done = probe(worker, Segment(0, steps - 1, 0.1), evals=min(16, steps))
    assert asked == list(at)
    assert len(done.validation_losses) == min(16, steps)
    assert done.steps == len(done.training_losses) == len(taken) == steps
    assert len(set(done.validation_losses)) == len(done.validation_losses)


def test_validation_losses_are_those_of_the_fixed_subset():
    worker = make_worker(ToyTask(), probe_samples=10)
    done = probe(worker, Segment(0, 31, 0.1), evals=16)
    train_again = make_worker(ToyTask(), probe_samples=10)
    train(train_again, 0, 32, lr=0.1)
    means = train_again.probe_evaluation().run(
        train_again.replica, train_again.group, with_metrics=False
    )
    assert done.validation_losses[-1] == means["loss"]


def test_a_probe_may_be_judged_on_more_samples():
    worker = make_worker(ToyTask(), probe_samples=5)
    usual, more = worker.probe_evaluation(), worker.probe_evaluation(3)
    assert (usual.samples, more.samples) == (5, 15)
    segment = Segment(0, 11, 0.1)
    done = worker.run_probe(Probe(1, 0, segment, evals=1), silent)
    longer = worker.run_probe(Probe(1, 1, segment, evals=1, sample_factor=3), silent)
    assert longer.validation_losses != done.validation_losses
    assert longer.forward_steps == pytest.approx(3 * done.forward_steps)


def test_probes_and_stages_are_judged_at_the_average(averaging: Averaging):
    worker = make_worker(ToyTask(), averaging, probe_samples=10)
    probe = worker.run_probe(Probe(1, 0, Segment(0, 11, 0.1), evals=1), silent)
    with worker.engine.averaged(12):
        means = worker.probe_evaluation().run(worker.replica, worker.group, with_metrics=False)
    assert probe.validation_losses == (means["loss"],)
    bare = worker.probe_evaluation().run(worker.replica, worker.group, with_metrics=False)
    assert bare["loss"] != means["loss"]

    done = worker.run_apply(Apply(1, Segment(0, 19, 0.1)), silent)
    with worker.engine.averaged(20):
        full = worker.evaluation.run(worker.replica, worker.group, with_metrics=True)
    assert {name: value for _, name, value in done.evaluations} == full


@pytest.mark.parametrize(
    ("every", "steps", "at"),
    [(None, 30, [30]), (10, 30, [10, 20, 30]), (20, 30, [20, 30]), (50, 30, [30])],
)
def test_a_stage_is_evaluated_every_so_often_and_at_its_end(
    every: int | None, steps: int, at: list[int]
):
    worker = make_worker(ToyTask(), every_steps=every)
    first = apply(worker, Segment(0, steps - 1, 0.1))
    assert [entry[:2] for entry in first.evaluations] == [
        (step, name) for step in at for name in ("loss", "accuracy")
    ]
    worker.take_snapshot(steps)
    second = apply(worker, Segment(steps, 2 * steps - 1, 0.1), stage=2)
    assert [step for step, _, _ in second.evaluations[::2]] == [steps + step for step in at]
    assert second.stage == 2
    values = {name: value for _, name, value in second.evaluations}
    full = worker.evaluation.run(worker.replica, worker.group, with_metrics=True)
    assert values == full


def explode(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


class CubicTask(ToyTask):
    """Its loss runs away to infinity in a few steps of a large LR."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]) ** 4).mean()


@pytest.mark.parametrize(("every", "steps"), [(5, 5), (10, 10), (7, 7)])
def test_divergence_ends_a_probe_at_the_next_look(every: int, steps: int):
    worker = make_worker(CubicTask(optimizer=explode), divergence_check_steps=every)
    before = state_of(worker.replica)
    looks: list[int] = []
    done = worker.run_probe(Probe(1, 3, Segment(0, 39, 1e3)), lambda done, _: looks.append(done))
    assert done.diverged
    assert done.steps == len(done.training_losses) == steps
    assert not all(map(math.isfinite, done.training_losses))
    assert math.isfinite(done.first_loss)
    assert looks == [steps]
    assert apply(worker, Segment(0, 39, 1e3)).diverged
    worker.snapshot.restore(worker.replica)
    assert_same(state_of(worker.replica), before)
    assert not probe(worker, Segment(0, 39, 1e-4)).diverged


def test_a_validation_probe_diverges_too():
    worker = make_worker(CubicTask(optimizer=explode))
    done = probe(worker, Segment(0, 63, 1e3), evals=16)
    assert done.diverged
    assert done.steps < 64
    assert len(done.validation_losses) < 16


def test_progress_is_told_at_each_look():
    worker = make_worker(ToyTask(), divergence_check_steps=8)
    told: list[tuple[int, float]] = []
    done = worker.run_probe(Probe(1, 0, Segment(0, 19, 0.1)), lambda *look: told.append(look))
    assert told == [(step, done.training_losses[step - 1]) for step in (8, 16, 20)]


class LossTask(ToyTask):
    """Returns what a test wants to see refused."""

    result: Any

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        mean = super().loss(model, batch)
        return self.result(mean)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda mean: mean.repeat(4), r"LossTask.loss returned shape \(4,\)"),
        (lambda mean: mean.reshape(1), r"LossTask.loss returned shape \(1,\)"),
        (lambda mean: mean.item(), "LossTask.loss returned float"),
        (
            lambda mean: mean * math.nan,
            r"step 0 cannot .* before any update, the loss is nan, .*LossTask.train_dataset",
        ),
        (
            lambda mean: mean + math.inf,
            r"step 0 cannot .* the loss is inf, though every input is finite; samples of",
        ),
    ],
)
def test_a_loss_that_cannot_be_trained_on_is_refused(result: Any, message: str):
    worker = make_worker(LossTask(result=result))
    with pytest.raises(ValueError, match=message):
        worker.check_first_loss()


def test_a_good_first_loss_leaves_the_state_as_it_was():
    worker = make_worker(ToyTask(augment=True))
    before = state_of(worker.replica)
    worker.check_first_loss()
    assert_same(state_of(worker.replica), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_samples": 0}, "validation set is empty"),
        ({"samples": 3}, "training set has 3 samples"),
        ({"micro_batch_size": 5}, "micro_batch_size=5 must divide"),
        ({"eval_batch_size": 0}, "eval_batch_size=0 must be"),
        ({"precision": "half"}, "precision='half' must be"),
    ],
)
def test_a_worker_refuses_bad_settings_and_data(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        make_worker(ToyTask(**settings))


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    first, *rest = model.parameters()
    return torch.optim.AdamW([{"params": [first], "lr": 0.02}, {"params": rest, "lr": 0.05}])


@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_a_plain_pytorch_loop_replays_the_found_schedule_bit_for_bit(optimizer: Any, tmp_path: Any):
    task = ToyTask(full_net, optimizer, augment=True, max_grad_norm=1.0)
    worker = make_worker(task)
    segments = (
        Segment(0, 9, 0.1, WarmupStableDecay(0, None, 10, 0)),
        Segment(10, 49, 0.23),
        Segment(50, 99, 0.071),
    )
    applied: list[float] = []
    for stage, segment in enumerate(segments):
        worker.take_snapshot(segment.first_step)
        if stage > 0:
            for lr in (0.9, 0.01):
                probe(worker, Segment(segment.first_step, segment.first_step + 9, lr))
        applied += apply(worker, segment, stage).training_losses
    LRSchedule(segments).save(tmp_path / "schedule.json")

    # From here on plain PyTorch, with the same data and the same seeds.
    schedule = LRSchedule.load(tmp_path / "schedule.json")
    replica = make_worker(task).replica  # the same initial weights
    model, plain = replica.module, replica.optimizer
    scheduler = schedule.scheduler(plain)
    batches = StepBatches(task, micro_batch_size=16, seed=0)
    losses = []
    for step, (batch,) in enumerate(batches.stream(0, schedule.total_steps, range(1))):
        model.train()
        seed_model(step)
        loss = task.loss(model, batch)
        plain.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        plain.step()
        scheduler.step()
        losses.append(loss.item())
    assert losses == applied
    assert_same(
        {name: value.clone() for name, value in model.state_dict().items()},
        dict(worker.replica.module.state_dict()),
    )


def seed_model(step: int) -> None:
    """Seed dropout as a run with seed 0 does."""
    from ray_autolrs.training.random_streams import Stream, seed_everything

    seed_everything(0, Stream.MODEL, step, 0)
