"""The LR range test where the loss falls by less than the noise of a batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from ray_autolrs.algorithm.search.lr_interval import DECADES
from ray_autolrs.task import TrainingTask
from ray_autolrs.training.lr_sweep import lr_range_test
from tests.training.test_lr_sweep import Bowl


@pytest.mark.parametrize(
    ("task", "lrs"),
    [
        (Bowl(), {"lr_start": 3.0, "lr_end": 30.0}),  # far too large from the start
        (Bowl(scale=0.0, offset=1.0), {}),  # flat: no LR is large enough
    ],
)
def test_where_the_loss_never_falls_the_optimizers_lr_is_believed(task, lrs, caplog):
    result = lr_range_test(task, steps=20, **lrs)
    assert result.read_by == "optimizer_lr"
    assert result.lr_min < 1e-3 < result.lr_max  # SGD's of the task
    assert result.lr_max / result.lr_min == pytest.approx(DECADES)
    warning = caplog.records[-1].message
    assert "of Bowl never falls between LR" in warning
    assert (
        "around the LR of its optimizer, 0.001. If that may be far off, give the interval"
        in warning
    )


class FineTuned(TrainingTask):
    """Begins near its best weights: the loss can fall by less than the noise of a batch."""

    global_batch_size = 16

    def __init__(self, off):
        self.off = off

    def pairs(self):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(512, 8, generator=generator)
        return x, x[:, :2] + 0.3 * torch.randn(512, 2, generator=generator)

    def build_model(self):
        x, y = self.pairs()
        model = nn.Linear(8, 2)
        solution = torch.linalg.lstsq(torch.cat([x, torch.ones(512, 1)], 1), y).solution
        with torch.no_grad():
            model.weight.copy_(solution[:8].T + self.off)
            model.bias.copy_(solution[8])
        return model

    def build_optimizer(self, model):
        return torch.optim.AdamW(model.parameters(), lr=1e-3)

    def train_dataset(self):
        return TensorDataset(*self.pairs())

    def val_dataset(self):
        return self.train_dataset()

    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch[0]), batch[1])


@pytest.mark.parametrize("off", [0.1, 0.05])
def test_from_pretrained_weights_the_same_batches_are_compared(off):
    result = lr_range_test(FineTuned(off))
    assert result.read_by == "paired_losses"
    assert result.lr_min < 1e-3 < result.lr_max < 0.3
    assert result.spent_steps > len(result.losses)


def test_where_almost_nothing_can_be_gained_the_interval_ends_where_the_loss_rises():
    result = lr_range_test(FineTuned(0.0))
    assert result.lr_min < 1e-3 < result.lr_max < 0.1
    # A sweep four times as long was tried; each loss compared costs a third of a step.
    assert result.read_by == "optimizer_lr"
    assert 100 < result.spent_steps <= 500 * 4 / 3
