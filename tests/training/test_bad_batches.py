from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply, ApplyDone, Probe
from ray_autolrs.training.epoch_order import epoch_order
from ray_autolrs.training.worker import Worker
from tests.training.broken_data import BAD_STEP, SAMPLES, Broken, Leaner, sample_at
from tests.training.toy import (
    ToyTask,
    assert_same,
    full_net,
    make_worker,
    plain_net,
    points,
    silent,
    state_of,
    train,
)


def apply(worker: Worker, steps: int = 30, lr: float = 0.05) -> ApplyDone:
    return worker.run_apply(Apply(1, Segment(0, steps - 1, lr)), silent)


@pytest.mark.parametrize("micro_batch_size", [None, 4])
@pytest.mark.parametrize(
    ("how", "told"),
    [
        (
            "input",
            rf"input batch\[0\] holds nan; samples of train_dataset: {sample_at(BAD_STEP)}\.",
        ),
        ("loss", rf"the loss is inf, .* train_dataset: {sample_at(BAD_STEP)}, "),
        ("gradient", rf"gradient of '0.weight' holds nan, .* {sample_at(BAD_STEP)}, "),
    ],
)
def test_an_error_tells_what_is_bad_and_where(how: str, told: str, micro_batch_size: int | None):
    worker = make_worker(Broken(plain_net, how=how, micro_batch_size=micro_batch_size))
    message = (
        rf"step {BAD_STEP} cannot .* the LR is not at fault: .*{told}.*data.*on_bad_batch='skip'"
    )
    for lr in (0.05, 0.001):
        with pytest.raises(ValueError, match=message):
            worker.run_probe(Probe(1, 0, Segment(0, 29, lr)), silent)
    with pytest.raises(ValueError, match=message):
        apply(worker)


@pytest.mark.parametrize("how", ["input", "gradient"])
@pytest.mark.parametrize("bad_step", [9, 19, 29])
def test_a_bad_step_right_before_a_look_is_found(how: str, bad_step: int):
    worker = make_worker(Broken(plain_net, how=how, bad_steps=(bad_step,)))
    with pytest.raises(ValueError, match=f"step {bad_step} cannot be trained on"):
        apply(worker)


def test_a_bad_first_step_is_found_before_anything_is_trained():
    worker = make_worker(Broken(plain_net, bad_steps=(0,)))
    with pytest.raises(ValueError, match=r"step 0 cannot .* before any update, input batch\[0\]"):
        worker.check_first_loss()


@pytest.mark.parametrize("number", [math.inf, -math.inf])
def test_an_input_that_is_infinite_is_told(number: float):
    worker = make_worker(Broken(plain_net, bad_number=number))
    with pytest.raises(ValueError, match=r"input batch\[0\] holds inf; .*" + str(sample_at(13))):
        apply(worker)


@pytest.mark.parametrize("net", [plain_net, full_net])
def test_an_lr_that_is_far_too_large_still_diverges(net: Any):
    worker = make_worker(ToyTask(net, on_bad_batch="skip"))
    done = worker.run_probe(Probe(1, 0, Segment(0, 29, 1e308)), silent)
    assert done.diverged
    assert done.skipped_steps == 0


class BrokenValidation(ToyTask):
    def val_dataset(self) -> Dataset[Any]:
        x, y = points(21).tensors
        x[18] = torch.nan
        return TensorDataset(x, y)


def test_bad_validation_data_is_told_with_its_samples():
    worker = make_worker(BrokenValidation(plain_net, eval_batch_size=4))
    message = r"validation loss after step 30 .* BrokenValidation.val_dataset .* \[16, 17, 18, 19\]"
    with pytest.raises(ValueError, match=message):
        apply(worker)


@pytest.mark.parametrize("how", ["input", "loss", "gradient"])
@pytest.mark.parametrize("bad_steps", [(13,), (0,), (9, 10), (12, 13, 19, 29)])
def test_skipped_steps_are_left_out_and_counted(how: str, bad_steps: tuple[int, ...]):
    worker = make_worker(Leaner(plain_net, how=how, bad_steps=bad_steps))
    worker.check_first_loss()
    done = apply(worker)
    assert (done.diverged, done.skipped_steps, len(done.training_losses)) == (
        False,
        len(bad_steps),
        30,
    )
    assert all(map(math.isfinite, done.training_losses))
    other = make_worker(Broken(plain_net, how=how, bad_steps=bad_steps))
    losses = []
    for step in range(30):
        if step not in bad_steps:
            losses += train(other, step, 1)
    taken = [loss for n, loss in enumerate(done.training_losses) if n not in bad_steps]
    assert taken == losses
    assert_same(state_of(worker.replica)["tensors"], state_of(other.replica)["tensors"])


def test_where_no_step_is_bad_the_choice_changes_nothing():
    one, other = make_worker(ToyTask()), make_worker(ToyTask(on_bad_batch="skip"))
    assert apply(one).training_losses == apply(other).training_losses
    assert_same(state_of(one.replica), state_of(other.replica))


def test_data_that_is_bad_throughout_is_no_spike():
    worker = make_worker(Leaner(plain_net, bad_steps=tuple(range(5, 30))))
    with pytest.raises(ValueError, match=r"cannot be trained on.*in each of the 10 before"):
        apply(worker)


class Ignoring(ToyTask):
    """Labels of -100 do not count. All of some micro-batches are such."""

    ignored_steps: tuple[int, ...] = (3, 4, 12)
    ignored = 4

    def train_dataset(self) -> Dataset[Any]:
        x, y = points(SAMPLES).tensors
        for step in self.ignored_steps:
            y[epoch_order(SAMPLES, 0, step * self.global_batch_size, self.ignored)] = -100
        return TensorDataset(x, y)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], ignore_index=-100)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


def test_a_micro_batch_without_a_counted_label_is_left_out_of_the_mean():
    worker = make_worker(Ignoring(plain_net, micro_batch_size=4))
    done = apply(worker)
    assert not done.diverged
    assert all(map(math.isfinite, done.training_losses))
    other = make_worker(Ignoring(plain_net, micro_batch_size=4))
    table = other.engine.loss_table(30)
    assert len(list(other.engine.steps(0, 30, lambda step: 0.05, table))) == 30
    assert table[3].isnan().tolist() == [True, False, False, False]
    assert list(done.training_losses) == table.nanmean(dim=1).tolist()
    assert_same(state_of(worker.replica)["tensors"], state_of(other.replica)["tensors"])


def test_a_first_micro_batch_without_a_counted_label_is_no_fault():
    worker = make_worker(Ignoring(plain_net, micro_batch_size=4, ignored_steps=(0,)))
    worker.check_first_loss()
    assert not apply(worker).diverged


@pytest.mark.parametrize("step", [0, 4])
def test_a_step_without_a_counted_label_is_told(step: int):
    task = Ignoring(plain_net, micro_batch_size=4, ignored_steps=(step,), ignored=16)
    worker = make_worker(task)
    with pytest.raises(ValueError, match=rf"step {step} cannot .* every label is ignored"):
        apply(worker)
    if step == 0:
        with pytest.raises(ValueError, match="every label is ignored"):
            worker.check_first_loss()


class IgnoringValidation(Ignoring):
    ignored_steps = ()

    def val_dataset(self) -> Dataset[Any]:
        x, y = points(24).tensors
        y[4:8] = -100
        return TensorDataset(x, y)


def test_a_validation_batch_without_a_counted_label_is_left_out_of_the_mean():
    worker = make_worker(IgnoringValidation(plain_net, eval_batch_size=4))
    mean = worker.evaluation.run(worker.replica, worker.group, with_metrics=False)["loss"]
    data: Any = worker.replica.task.val_dataset()
    counted = DataOf(Subset(data, [*range(4), *range(8, 24)]))
    worker.replica.module.eval()
    expected = counted.loss(worker)
    assert mean == pytest.approx(expected, rel=1e-12)
    done = apply(worker)
    assert not done.diverged
    assert math.isfinite(done.evaluations[0][2])


class DataOf:
    """The mean loss of a set, computed at once."""

    def __init__(self, data: Subset[Any]) -> None:
        self.batch = ToyTask().collate([data[index] for index in range(len(data))])

    def loss(self, worker: Worker) -> float:
        with torch.no_grad():
            return worker.replica.task.loss(worker.replica.module, self.batch).item()


def test_a_normal_run_looks_at_nothing_again(monkeypatch: pytest.MonkeyPatch):
    def never(*args: object) -> None:
        raise AssertionError("looked at")

    monkeypatch.setattr("ray_autolrs.training.segment_steps.examine", never)
    assert not apply(make_worker(ToyTask())).diverged
