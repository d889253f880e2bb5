from __future__ import annotations

import logging
import math
import random
from dataclasses import astuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from ray_autolrs.algorithm.search.lr_interval import DECADES, smooth
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.lr_sweep import RangeTestResult, lr_range_test
from tests.digits_task import DigitsTask
from tests.training.toy import Augmented, ToyTask, assert_same


class Bowl(TrainingTask):
    """Minimises w² / 2 from w = 1 with SGD: an LR above 2 diverges, others shrink w."""

    global_batch_size = 4

    def __init__(self, **settings):
        self.scale, self.offset = 1.0, 0.0
        for name, value in settings.items():
            setattr(self, name, value)

    def build_model(self):
        model = nn.Linear(1, 1, bias=False).double()
        nn.init.ones_(model.weight)
        return model

    def build_optimizer(self, model):
        return torch.optim.SGD(model.parameters(), lr=1e-3)

    def train_dataset(self):
        return TensorDataset(torch.ones(4, 1, dtype=torch.float64))

    def val_dataset(self):
        return self.train_dataset()

    def loss(self, model, batch):
        return self.scale * model(batch[0]).square().mean() / 2 + self.offset


@pytest.fixture(scope="module")
def digits():
    return lr_range_test(DigitsTask())


def final_loss(lr, steps=300):
    """Train the digits with a constant LR, by a plain loop."""
    task = DigitsTask()
    torch.manual_seed(0)
    model = task.build_model()
    optimizer = task.build_optimizer(model)
    optimizer.param_groups[0]["lr"] = lr
    images, labels = task.train_dataset().tensors
    losses = []
    for step in range(steps):
        rows = torch.randperm(400, generator=torch.Generator().manual_seed(step))[:32]
        loss = task.loss(model, [images[rows], labels[rows]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-30:]) / 30


def test_the_interval_holds_the_best_constant_lr(digits):
    grid = [10.0**exponent for exponent in range(-5, 2)]
    losses = {lr: final_loss(lr) for lr in grid}
    best = min(grid, key=losses.__getitem__)
    assert digits.lr_min < best / 10
    assert best < digits.lr_max
    # Its upper end is not far beyond what can be trained with, and the lower one is too low.
    assert losses[10.0] > 10 * losses[best]
    assert digits.lr_max < 10.0
    assert final_loss(digits.lr_min) > 2 * losses[best]


def test_curve(digits):
    assert digits.lrs[0] == 1e-7
    assert len(digits.lrs) == len(digits.losses) <= 100
    ratios = [later / earlier for earlier, later in zip(digits.lrs, digits.lrs[1:], strict=False)]
    assert ratios == pytest.approx([1e8 ** (1 / 99)] * len(ratios))
    assert digits.losses[0] == pytest.approx(math.log(10), abs=0.3)
    assert digits.lr_max / digits.lr_min >= DECADES * (1 - 1e-9)
    assert digits.lrs.index(digits.lr_max) == int(np.argmin(smooth(digits.losses)))


def test_it_depends_on_the_seed_alone(digits):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    assert astuple(lr_range_test(DigitsTask())) == astuple(digits)


def test_the_seed_decides_the_model_and_the_batches():
    class Watched(Bowl):
        def __init__(self):
            super().__init__()
            self.weights, self.batches = [], []

        def build_model(self):
            return nn.Linear(1, 1, bias=False).double()

        def train_dataset(self):
            return TensorDataset(1 + torch.arange(200.0, dtype=torch.float64)[:, None] / 200)

        def loss(self, model, batch):
            self.weights.append(model.weight.item())
            self.batches.append(batch[0].flatten().tolist())
            return super().loss(model, batch)

    runs = []
    for seed in (0, 1, 1):
        runs.append(Watched())
        lr_range_test(runs[-1], seed=seed, lr_start=1e-3)
    assert runs[0].weights[0] != runs[1].weights[0]
    assert runs[0].batches[0] != runs[1].batches[0]
    assert (runs[1].weights, runs[1].batches) == (runs[2].weights, runs[2].batches)


class Noisy(ToyTask):
    """Its data and its dropout draw from every generator."""

    global_batch_size = 16
    augment = True


def test_the_callers_random_states_are_put_back():
    def states():
        return random.getstate(), np.random.get_state(), torch.get_rng_state()

    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = states()
    assert isinstance(Noisy().train_dataset(), Augmented)
    lr_range_test(Noisy(), lr_start=1e-4)
    assert_same(before, states())
    with pytest.raises(ValueError, match="not finite"):
        lr_range_test(Bowl(offset=float("nan")))
    assert_same(before, states())


@pytest.mark.parametrize("num_workers", [2, 4])
def test_accumulation_does_not_change_the_curve(num_workers):
    # The gradients of micro-batches are averaged, so that only rounding differs.
    class Whole(DigitsTask):
        micro_batch_size = None  # type: ignore[assignment]  # the base class has 16

        def build_model(self):
            return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double()

    whole = lr_range_test(Whole(), steps=40)
    parts = lr_range_test(Whole(), steps=40, num_workers=num_workers)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-6)
    assert (parts.lr_min, parts.lr_max) == (whole.lr_min, whole.lr_max)


def test_param_groups_keep_their_ratio():
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    def build(model):
        groups = [
            {"params": [p for p in model.parameters() if p.ndim > 1], "lr": 0.01},
            {"params": [p for p in model.parameters() if p.ndim == 1], "lr": 0.04},
        ]
        return Watched(groups, momentum=0.9)

    result = lr_range_test(ToyTask(optimizer=build), lr_start=1e-4, steps=50)
    assert [lr for lr, _ in seen[: len(result.lrs)]] == list(result.lrs)
    assert [second / first for first, second in seen] == pytest.approx([4.0] * len(seen))


def test_divergence_ends_the_test():
    # Above LR 2, w grows by 1 - LR each step; before, it falls.
    result = lr_range_test(Bowl(), lr_start=1e-3, lr_end=1e3)
    assert result.ending == "loss_rose"
    assert len(result.losses) < 100
    assert 0.2 < result.lr_max < 20.0
    assert all(map(math.isfinite, result.losses))


def test_a_loss_that_is_not_finite_ends_the_test():
    class Sudden(Bowl):
        def loss(self, model, batch):
            loss = super().loss(model, batch)
            return loss if loss > 0.2 else loss * float("nan")

    result = lr_range_test(Sudden(), lr_start=1e-4, lr_end=10.0)
    assert result.ending == "not_finite"
    assert 0.2 < result.losses[-1] < 0.5
    assert len(result.lrs) == len(result.losses) < 100
    assert result.lr_max == result.lrs[-1]


class Scripted(Bowl):
    """Its losses are given, whatever the model does."""

    script: list[float]

    def loss(self, model, batch):
        self.script, value = self.script[1:], self.script[0]
        return 0 * super().loss(model, batch) + value


@pytest.mark.parametrize(
    ("script", "ending", "steps"),
    [
        # Up again to 100 times the smallest loss, which is still a tenth of the first ones.
        ([1.0] * 30 + [0.001] * 40 + [0.1] * 30, "lr_end", 100),
        # A single bad batch.
        ([1.0] * 30 + [0.5] * 40 + [9.0] + [0.5] * 29, "lr_end", 100),
        # The average of ten steps passes four times its best, 0.51, after the sixth high loss.
        ([1.0] * 30 + [0.5] * 40 + [4.0] * 30, "loss_rose", 76),
        ([1.0] * 30 + [0.5] * 40 + [math.inf] * 30, "not_finite", 70),
    ],
)
def test_when_the_test_ends(script, ending, steps):
    result = lr_range_test(Scripted(script=script))
    assert (result.ending, len(result.losses)) == (ending, steps)
    assert list(result.losses) == script[:steps]
    assert result.lr_max == result.lrs[69]


@pytest.mark.parametrize("offset", [-100.0, -0.25, 0.0, 100.0])
def test_the_sign_of_the_loss_does_not_matter(offset):
    result = lr_range_test(Bowl(offset=offset), lr_start=1e-3, lr_end=1e3)
    assert result.ending in ("loss_rose", "not_finite")
    assert 0.2 < result.lr_max < 20.0


def test_a_curve_that_still_falls_at_the_end_says_so(caplog):
    with caplog.at_level(logging.INFO, "ray_autolrs"):
        result = lr_range_test(Bowl(), lr_start=1e-6, lr_end=0.1)
    assert result.lr_max == 0.1
    assert result.lrs[-1] == 0.1
    decision, warning = caplog.records
    assert "range test of Bowl: 100 steps, ended by lr_end; interval" in decision.message
    assert warning.levelno == logging.WARNING
    assert "still falling at lr_end=0.1; raise it" in warning.message


def test_loader_processes_are_left_early():
    class Loaded(Bowl):
        loader_workers = 1

    loaded = lr_range_test(Loaded(), lr_start=1e-3, lr_end=1e3)
    assert astuple(loaded) == astuple(lr_range_test(Bowl(), lr_start=1e-3, lr_end=1e3))


def test_a_task_that_cannot_start_is_refused():
    with pytest.raises(ValueError, match=r"not finite at LR 1e-07, after 0 of 100 steps"):
        lr_range_test(Bowl(offset=float("nan")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr_start": 0.0}, r"lr_start=0\.0 must be positive and finite"),
        ({"lr_end": float("inf")}, r"lr_end=inf must be positive and finite"),
        ({"lr_start": 1.0, "lr_end": 1.0}, r"lr_start=1\.0 must be smaller than lr_end=1\.0"),
        ({"steps": 19}, r"steps=19 must be an integer of at least 20"),
        ({"steps": 50.0}, r"steps=50\.0 must be an integer of at least 20"),
        ({"seed": -1}, r"seed=-1 must be an integer of at least 0"),
        ({"num_workers": 3}, r"Bowl\.global_batch_size=4 must be divisible by num_workers=3"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        lr_range_test(Bowl(), **arguments)


def test_plot(digits, tmp_path):
    digits.plot(tmp_path / "range.png")
    assert (tmp_path / "range.png").read_bytes().startswith(b"\x89PNG")
    flat = RangeTestResult(1e-3, 1.0, (1e-3, 1e-2, 1e-1, 1.0), (2.0, 1.5, 1.0, 9e9), "loss_rose")
    flat.plot(str(tmp_path / "range.svg"))
    assert "<svg" in (tmp_path / "range.svg").read_text()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(digits):
    torch.cuda.manual_seed_all(3)
    before = torch.cuda.get_rng_state()
    result = lr_range_test(DigitsTask(), device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert 0.1 < result.lr_max / digits.lr_max < 10.0
