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
from tests.training.broken_data import BAD_STEP, SAMPLES, Broken, Ignoring, Leaner, sample_at
from tests.training.toy import (
    ToyTask,
    assert_near,
    assert_same,
    full_net,
    make_worker,
    plain_net,
    points,
    silent,
    state_of,
    train,
    values,
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


class Spiky(ToyTask):
    """The loss of some steps is many times that of others."""

    on_bad_batch = "skip"
    bad_steps: tuple[int, ...] = (13,)
    factor = 1000.0

    def train_dataset(self) -> Dataset[Any]:
        x, y = points(SAMPLES).tensors
        for step in self.bad_steps:
            x[epoch_order(SAMPLES, 0, step * self.global_batch_size, self.global_batch_size)] += 50
        return TensorDataset(x, y)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        is_spike = batch[0].mean() > 20
        x = batch[0] - 50 * is_spike
        return nn.functional.cross_entropy(model(x), batch[1]) * (self.factor if is_spike else 1)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize("bad_steps", [(13,), (0,), (12, 13, 19), (9, 10)])
def test_a_spike_is_left_out_where_bad_batches_may_be_skipped(bad_steps: tuple[int, ...]):
    worker, other = (make_worker(Spiky(plain_net, bad_steps=bad_steps)) for _ in range(2))
    done = apply(worker)
    assert (done.diverged, done.skipped_steps) == (False, len(bad_steps))
    for step in range(30):
        if step not in bad_steps:
            train(other, step, 1)
    assert_same(state_of(worker.replica)["tensors"], state_of(other.replica)["tensors"])


@pytest.mark.parametrize(
    "settings", [{"on_bad_batch": "raise"}, {"factor": 5.0}, {"bad_steps": tuple(range(10, 30))}]
)
def test_what_is_no_spike_is_trained_on(settings: dict[str, Any]):
    """It may not be left out, is not ten times as large, or is the rule rather than a spike."""
    worker, other = (make_worker(Spiky(plain_net, **settings)) for _ in range(2))
    done = apply(worker)
    assert done.skipped_steps == 0
    train(other, 0, 30)
    assert_same(state_of(worker.replica)["tensors"], state_of(other.replica)["tensors"])


def test_data_that_is_bad_throughout_is_no_spike():
    worker = make_worker(Leaner(plain_net, bad_steps=tuple(range(5, 30))))
    with pytest.raises(ValueError, match=r"cannot be trained on.*in each of the 10 before"):
        apply(worker)


def test_a_micro_batch_without_a_counted_label_is_left_out_of_the_mean():
    worker = make_worker(Ignoring(plain_net, micro_batch_size=4))
    done = apply(worker)
    assert not done.diverged
    assert all(map(math.isfinite, done.training_losses))
    # A loop that leaves such micro-batches out by itself.
    other = make_worker(Ignoring(plain_net, micro_batch_size=4))
    replica, losses = other.replica, []
    replica.train_mode()
    for step in range(30):
        replica.set_lr(0.05)
        replica.clear_gradients()
        means = []
        for batch in next(other.engine.batches.stream(step, 1, range(4))):
            if (batch[1] >= 0).any():
                means.append(replica.task.loss(replica.module, batch))
        torch.stack(means).mean().backward()
        replica.optimizer.step()
        losses.append(torch.stack(means).mean().item())
    assert done.training_losses == pytest.approx(losses, rel=1e-12)
    assert_near(values(worker.replica), values(replica))


def test_from_then_on_their_steps_are_right_at_once():
    """A run that is continued after such a step ends at the same bits as one that was not."""
    first, second = (make_worker(Ignoring(plain_net, micro_batch_size=4)) for _ in range(2))
    second.replica.rescales_uncounted = True
    assert apply(first).training_losses == apply(second).training_losses
    assert first.replica.rescales_uncounted
    assert_same(state_of(first.replica), state_of(second.replica))


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

    monkeypatch.setattr("ray_autolrs.training.bad_batches.examine", never)
    assert not apply(make_worker(ToyTask())).diverged
