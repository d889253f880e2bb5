from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Probe
from ray_autolrs.training.averaging.average import Averaging
from ray_autolrs.training.averaging.ema import EMA
from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
from ray_autolrs.training.collectives import Solo
from ray_autolrs.training.engine import Engine, Share
from ray_autolrs.training.worker import Worker
from tests.training.toy import (
    CPU,
    ToyTask,
    assert_near,
    assert_same,
    differs,
    full_net,
    make_worker,
    plain_net,
    silent,
    state_of,
    train,
    values,
)


class LookedError(Exception):
    pass


def engine(task: ToyTask, averaging: Averaging | None = None, num_workers: int = 1) -> Engine:
    return Engine(task, Solo(), CPU, seed=0, averaging=averaging, num_workers=num_workers)


def test_steps_are_a_plain_loop_s():
    trained, plain = engine(ToyTask(plain_net, samples=40)), engine(ToyTask(plain_net, samples=40))
    losses = trained.loss_table(9)
    assert losses.shape == (9, 1)
    assert list(trained.steps(3, 9, lambda step: 0.01 * step, losses)) == list(range(1, 10))
    model, optimizer = plain.replica.module, plain.replica.optimizer
    for step in range(3, 12):
        loss = plain.replica.task.loss(model, plain.batches.micro(step, 0))
        assert loss.item() == losses[step - 3, 0].item()
        optimizer.param_groups[0]["lr"] = 0.01 * step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not differs(values(trained.replica), values(plain.replica))


def test_an_lr_is_asked_for_after_the_step_before_is_told():
    """So that a schedule may depend on the losses."""
    trained, order = engine(ToyTask()), []

    def lr_at(step: int) -> float:
        order.append(f"lr {step}")
        return 0.1

    for done in trained.steps(5, 3, lr_at, trained.loss_table(3)):
        order.append(f"done {done}")
    assert order == ["lr 5", "done 1", "lr 6", "done 2", "lr 7", "done 3"]


def test_steps_may_be_left_early_and_gone_on_with():
    whole, parts = engine(ToyTask(augment=True)), engine(ToyTask(augment=True))
    expected, losses = whole.loss_table(8), parts.loss_table(8)
    assert len(list(whole.steps(0, 8, lambda step: 0.1, expected))) == 8
    for done in parts.steps(0, 8, lambda step: 0.1, losses):
        if done == 3:
            break
    assert len(list(parts.steps(3, 5, lambda step: 0.1, losses[3:]))) == 5
    assert torch.equal(losses, expected)


def test_shares_are_of_the_micro_batches():
    alone = engine(ToyTask(micro_batch_size=2), num_workers=4)
    assert alone.batches.micro_batches == 8
    assert alone.together.micros == alone.alone.micros == range(8)
    part = Share(Solo(), range(2, 5))
    losses = alone.loss_table(1)
    assert list(alone.steps(0, 1, lambda step: 0.1, losses, share=part)) == [1]
    assert [loss > 0 for loss in losses[0]] == [micro in part.micros for micro in range(8)]


def test_waiting_for_data_is_counted():
    class SlowData(ToyTask):
        def collate(self, samples: Any) -> Any:
            time.sleep(0.01)
            return super().collate(samples)

    trained = engine(SlowData(plain_net))
    assert trained.data_wait_s == 0.0
    for done in trained.steps(0, 4, lambda step: 0.1, trained.loss_table(4)):
        assert trained.data_wait_s >= 0.01 * done


def test_an_evaluation_looks_at_the_average(averaging: Averaging):
    trained = engine(ToyTask(), averaging.resolve(16))
    validation = trained.evaluation(trained.replica.task.val_dataset(), range(10))
    assert validation.samples == 10
    assert list(trained.steps(0, 6, lambda step: 0.1, trained.loss_table(6)))
    now = values(trained.replica)
    loss = trained.evaluate(validation, step=6)
    with trained.averaged(6):
        assert loss == validation.run(trained.replica, Solo(), with_metrics=False)
    assert not differs(values(trained.replica), now)
    assert loss != validation.run(trained.replica, Solo(), with_metrics=False)


def test_evaluations_between_steps_do_not_disturb_the_training(averaging: Averaging):
    watched = make_worker(ToyTask(augment=True), averaging)
    left_alone = make_worker(ToyTask(augment=True), averaging)
    losses: list[float] = []
    for step in range(8):
        losses += train(watched, step, 1)
        with watched.engine.averaged(step + 1):
            watched.evaluation.run(watched.replica, watched.group, with_metrics=True)
    watched_last = train(watched, 8, 1)
    assert losses + watched_last == train(left_alone, 0, 9)
    assert_same(state_of(watched.replica), state_of(left_alone.replica))


def norm_of(worker: Worker) -> nn.BatchNorm1d:
    norm = worker.replica.module[1]  # type: ignore[index]
    assert isinstance(norm, nn.BatchNorm1d)
    return norm


def test_statistics_at_the_average_are_the_mean_over_the_latest_batches(averaging: Averaging):
    task = ToyTask(full_net, micro_batch_size=8)
    worker = make_worker(task, replace(averaging, calibration_batches=3))
    norm = norm_of(worker)
    norm.momentum = 0.3
    train(worker, 0, 7)
    kept = [buffer.clone() for buffer in norm.buffers()]
    means, variances = [], []
    with worker.replica.average.swapped_in(), torch.no_grad():
        for step in (4, 5, 6):
            x, _ = worker.engine.batches.micro(step, 0)
            hidden = worker.replica.module[0](x)  # type: ignore[index]
            means.append(hidden.mean(dim=0))
            variances.append(hidden.var(dim=0))
    with worker.engine.averaged(7):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert_near([norm.running_mean], [torch.stack(means).mean(dim=0)])
        assert_near([norm.running_var], [torch.stack(variances).mean(dim=0)])
        assert norm.momentum == 0.3
        assert worker.replica.module[2].training  # type: ignore[index]  # as before
    assert norm.momentum == 0.3
    assert not differs(list(norm.buffers()), kept)


def test_fewer_steps_than_calibration_batches_are_enough(averaging: Averaging):
    worker = make_worker(ToyTask(), replace(averaging, calibration_batches=10))
    train(worker, 0, 2)
    with worker.engine.averaged(2):
        assert norm_of(worker).num_batches_tracked == 2


def test_statistics_are_restored_after_an_exception(averaging: Averaging):
    worker = make_worker(ToyTask(), averaging)
    train(worker, 0, 3)
    before = state_of(worker.replica)["tensors"]
    with pytest.raises(LookedError), worker.engine.averaged(3):
        raise LookedError
    assert_same(state_of(worker.replica)["tensors"], before)

    def batches() -> Any:
        yield worker.engine.batches.micro(0, 0)
        raise LookedError

    with pytest.raises(LookedError), worker.replica.averaged(batches()):
        pass
    assert_same(state_of(worker.replica)["tensors"], before)
    assert norm_of(worker).momentum == 0.1


def test_without_an_average_nothing_is_read():
    worker = make_worker(ToyTask())
    train(worker, 0, 3)
    before = state_of(worker.replica)

    def batches() -> Any:
        raise LookedError
        yield

    with worker.replica.averaged(batches()):
        assert_same(state_of(worker.replica), before)


def synced_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.SyncBatchNorm(8), nn.Linear(8, 3)).double()


def test_statistics_are_taken_without_the_other_workers(averaging: Averaging, monkeypatch: Any):
    """Rank 0 takes them alone: a layer that waits for the others would wait for ever."""
    worker = make_worker(ToyTask(synced_net), averaging)
    train(worker, 0, 3)

    def wait(*_: Any) -> None:
        raise AssertionError("waits for the other workers")

    monkeypatch.setattr(nn.SyncBatchNorm, "forward", wait)
    with worker.engine.averaged(3):
        assert worker.replica.module[1].num_batches_tracked == 3  # type: ignore[index]
    monkeypatch.undo()
    with worker.engine.averaged(3):
        means = worker.evaluation.run(worker.replica, worker.group, with_metrics=False)
    assert means["loss"] > 0


@pytest.mark.parametrize(
    ("net", "averaging", "steps"),
    [
        # 10 samples forward are a third of 10/16 of a step; so are 4 batches of 8 samples.
        (full_net, None, 10 / 48),
        (plain_net, EMA(calibration_batches=4), 10 / 48),
        (full_net, EMA(calibration_batches=4), (10 + 32) / 48),
        (full_net, ScheduleFreeAverage(calibration_batches=4), (10 + 32) / 48),
    ],
)
def test_what_a_look_costs_is_counted_in_steps(net: Any, averaging: Averaging | None, steps: float):
    worker = make_worker(ToyTask(net, micro_batch_size=8), averaging, probe_samples=10)
    for evals in (0, 1, 3):
        done = worker.run_probe(Probe(1, 0, Segment(0, 11, 0.1), evals), silent)
        assert done.forward_steps == pytest.approx(evals * steps)
