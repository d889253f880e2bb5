"""What find_lr refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ray_autolrs import EMA
from ray_autolrs.algorithm.stages.stage_search import SearchFailedError
from ray_autolrs.training.find_lr import find_lr
from tests.training.live import Loop, everything
from tests.training.toy import assert_same


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss": None}, r"loss=None and step=None: give loss, a function of \(model, batch\)"),
        ({"step": 3}, "step=3 must be a function"),
        ({"step": print, "averaging": EMA()}, r"averaging=EMA\(.*\) needs to take the steps"),
        ({"total_steps": 0}, r"total_steps=0 must be an integer of at least 1, or None"),
        ({"accumulation": 1.5}, r"accumulation=1\.5 must be an integer of at least 1"),
        ({"lr": (1.0, 0.1)}, r"lr=\(1\.0, 0\.1\) must be an interval"),
        ({"lr": -1}, r"lr=-1 must be an interval \(low, high\), a positive guess, or None"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm=0\.0 must be positive"),
        ({"train_batches": 5}, r"batches of type int cannot be iterated; give a DataLoader"),
        ({"train_batches": []}, r"train_batches ended after 0 batches, and the search needs 1"),
        ({"val_batches": []}, r"val_batches gave no batch"),
        ({"loss": lambda model, batch: torch.tensor([1.0, 2.0])}, r"loss returned shape \(2,\)"),
        (
            {"loss": lambda model, batch: torch.tensor(math.nan)},
            r"loss returned a tensor that does not depend on the model's parameters",
        ),
        (
            {"loss": lambda model, batch: model(batch[0]).sum() * math.nan},
            r"before any update, the loss is nan",
        ),
    ],
)
def test_arguments_are_checked(changed, message):
    loop = Loop()
    before = everything(loop.model, loop.optimizer)
    with pytest.raises(ValueError, match=message):
        loop.find(**changed)
    assert_same(before, everything(loop.model, loop.optimizer))


def test_models_that_are_refused():
    loop = Loop()
    with pytest.raises(ValueError, match=r"model=int must be a torch\.nn\.Module"):
        find_lr(3, loop.optimizer, loss=loop.task.loss, train_batches=[], total_steps=1)  # type: ignore[arg-type]
    other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    loop.optimizer = other
    with pytest.raises(ValueError, match="parameter group 0 has a parameter that the model lacks"):
        loop.find()
    loop = Loop()
    loop.optimizer = torch.optim.LBFGS(loop.model.parameters())
    with pytest.raises(ValueError, match="the optimizer is LBFGS"):
        loop.find()


def test_an_optimizer_that_chooses_its_lr_itself():
    loop = Loop()
    loop.optimizer.param_groups[0]["lr"] = None  # transformers' Adafactor
    with pytest.raises(
        ValueError, match="group 0 has lr=None, so that there is none to find: SGD chooses"
    ):
        loop.find()


def test_where_every_lr_diverges():
    def loss(model, batch):
        start = all(
            torch.equal(now, then) for now, then in zip(model.parameters(), first, strict=True)
        )
        return loop.task.loss(model, batch) + (0.0 if start else math.inf)

    loop = Loop()
    first = [parameter.detach().clone() for parameter in loop.model.parameters()]
    with pytest.raises(SearchFailedError, match="every LR tried"):
        loop.find(loss=loss)
