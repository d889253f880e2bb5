from __future__ import annotations

import math

import pytest
import torch
from ray.train import RunConfig, ScalingConfig
from schedulefree import ScheduleFreeWrapper
from torch import nn
from torch.utils.data import TensorDataset

from ray_autolrs import AutoLRSConfig, AutoLRSTrainer, ScheduleFreeAverage, TrainingTask
from ray_autolrs.comparison.baselines import train_baseline
from ray_autolrs.comparison.plain_training import train_plain
from ray_autolrs.training.batches import StepBatches
from ray_autolrs.training.random_streams import Stream, seed_everything
from tests.digits_task import DigitsTask

STEPS, SEED = 60, 3


class WholeBatches(DigitsTask):
    """One forward pass a step, so that a plain loop is a plain loop."""

    micro_batch_size: int | None = None  # type: ignore[assignment]

    def test_dataset(self):
        return self.part(slice(500, 600))


class WithoutNorm(WholeBatches):
    def build_model(self):
        return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double()


class Steep(TrainingTask):
    """Least squares that any large learning rate blows up."""

    global_batch_size = 4

    def build_model(self):
        return nn.Linear(1, 1)

    def build_optimizer(self, model):
        return torch.optim.SGD(model.parameters(), lr=0.1)

    def train_dataset(self):
        return TensorDataset(torch.linspace(1, 2, 8)[:, None], torch.linspace(3, 1, 8)[:, None])

    val_dataset = train_dataset

    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch[0]), batch[1])


def prepared(task):
    """Return a model and an optimizer as a run with SEED begins with, and its batches."""
    seed_everything(SEED, Stream.BUILD)
    model = task.build_model()
    optimizer = task.build_optimizer(model)
    batches = StepBatches(task, micro_batch_size=task.global_batch_size, seed=SEED)
    return model, optimizer, batches


def train_step(task, model, optimizer, batches, step):
    batch = batches.micro(step, 0)
    seed_everything(SEED, Stream.MODEL, step, 0)
    optimizer.zero_grad()
    task.loss(model, batch).backward()
    optimizer.step()


def loss_on(task, model, dataset):
    model.eval()
    parts = torch.split(torch.arange(len(dataset)), task.eval_batch_size)
    with torch.no_grad():
        losses = [task.loss(model, dataset[rows.tolist()]) for rows in parts]
    sizes = torch.tensor([len(rows) for rows in parts], dtype=torch.float64)
    model.train()
    return ((sizes @ torch.stack(losses)[:, None]) / sizes.sum()).item()


@pytest.mark.parametrize(("method", "part"), [("cosine", 0.05), ("cosine_long_warmup", 0.2)])
def test_cosine_is_a_plain_torch_loop_to_the_last_bit(method, part):
    task = WholeBatches()
    model, optimizer, batches = prepared(task)
    warmup = round(part * STEPS)

    def factor(step):
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * ((step - warmup) / (STEPS - warmup))))

    curve = []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.2 * factor(step)
        train_step(task, model, optimizer, batches, step)
        if step + 1 in (20, 40, 60):
            curve.append((step + 1, loss_on(task, model, task.val_dataset())))

    record = train_baseline(method, task, lr=0.2, steps=STEPS, seed=SEED, eval_every=20)
    assert record.curve == tuple(curve)
    assert record.val_loss == curve[-1][1]
    assert record.test_loss == loss_on(task, model, task.test_dataset())
    assert (record.method, record.lr, record.seed, record.steps) == (method, 0.2, SEED, STEPS)
    assert not record.diverged
    assert record.search_steps == 0


def test_schedule_free_is_judged_at_the_averaged_weights():
    task = WithoutNorm()
    model, optimizer, batches = prepared(task)
    optimizer.param_groups[0]["momentum"] = 0.0
    wrapper = ScheduleFreeWrapper(optimizer, momentum=0.9)
    wrapper.train()
    warmup = round(0.05 * STEPS)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.5 * min(1.0, (step + 1) / warmup)
        train_step(task, model, wrapper, batches, step)
    at_gradients = loss_on(task, model, task.val_dataset())
    wrapper.eval()
    at_average = loss_on(task, model, task.val_dataset())

    # The LR means what it means to the optimizer with its momentum of 0.9: steps ten times as long.
    record = train_baseline("schedule_free", task, lr=0.05, steps=STEPS, seed=SEED)
    assert record.val_loss == pytest.approx(at_average, rel=1e-9)
    assert record.val_loss != pytest.approx(at_gradients, rel=1e-6)
    assert record.test_loss == pytest.approx(loss_on(task, model, task.test_dataset()), rel=1e-9)


def test_schedule_free_takes_batch_norms_statistics_anew():
    record = train_baseline("schedule_free", WholeBatches(), lr=0.5, steps=STEPS, seed=SEED)
    first = record.curve[0][1]
    assert record.val_loss < 0.7 * first


def test_a_run_that_diverges_is_a_result():
    record = train_baseline("constant", Steep(), lr=1e6, steps=200, seed=0)
    assert record.diverged
    assert record.val_loss == math.inf
    assert record.test_loss is None
    assert all(math.isfinite(loss) for _, loss in record.curve)


def test_evaluations_do_not_change_the_run():
    often = train_baseline("linear", DigitsTask(), lr=0.1, steps=STEPS, seed=0, eval_every=7)
    once = train_baseline("linear", DigitsTask(), lr=0.1, steps=STEPS, seed=0, eval_every=STEPS)
    assert often.val_loss == once.val_loss
    assert [step for step, _ in often.curve] == [*range(7, STEPS, 7), STEPS]


def test_the_schedule_that_autolrs_found_trains_the_same_model(tmp_path):
    config = AutoLRSConfig(total_steps=STEPS, lr=(1e-2, 1.0), seed=SEED)
    found = AutoLRSTrainer(
        DigitsTask(),
        config,
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name="found", storage_path=str(tmp_path)),
    ).fit()
    record = train_plain(
        DigitsTask(),
        found.schedule,
        method="replay",
        lr=None,
        steps=STEPS,
        seed=SEED,
        averaging=ScheduleFreeAverage(),
    )
    evaluations = found.history[found.history["kind"] == "evaluation"]
    assert (STEPS, record.val_loss) in set(
        zip(evaluations["step"], evaluations["loss"], strict=True)
    )


def test_a_schedule_of_ones_own():
    class Fixed:
        def lr_at(self, step):
            return 0.1

    record = train_plain(DigitsTask(), Fixed(), method="mine", lr=None, steps=20, seed=0)
    constant = train_baseline("constant", DigitsTask(), lr=0.1, steps=20, seed=0)
    assert record.method == "mine"
    assert len(record.curve) == 20
    assert record.val_loss == pytest.approx(constant.val_loss, rel=0.05)
