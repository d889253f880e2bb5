"""Steps that float16's gradient scaler leaves out, because their loss overflowed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch import Tensor, nn

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.stages.messages import Apply
from tests.training.broken_data import Broken
from tests.training.toy import FEATURES, assert_same, make_worker, silent, state_of, train


class Moving(nn.Linear):
    """Knows where its weights began."""

    start: Tensor

    def __init__(self) -> None:
        super().__init__(FEATURES, 3)
        self.register_buffer("start", self.weight.detach().clone())


class Overflowing(Broken):
    """In some steps the loss is infinite, unless the weights are where they began."""

    how = "overflow"
    precision = "fp16"

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        assert isinstance(model, Moving)
        loss = super().loss(model, (batch[0].float(), batch[1]))
        moved = (model.weight - model.start).abs().sum()
        marked = (batch[0][:, 0] == 7.0).any()
        return loss + (moved * 1e30).square() if marked else loss

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize("bad_steps", [(13,), (19,), (9, 10), tuple(range(5, 14))])
def test_a_step_that_the_scaler_left_out_is_no_divergence(bad_steps: tuple[int, ...]):
    worker = make_worker(Overflowing(Moving, bad_steps=bad_steps))
    done = worker.run_apply(Apply(1, Segment(0, 29, 0.05)), silent)
    assert not done.diverged
    other = make_worker(Overflowing(Moving, bad_steps=bad_steps))
    losses = train(other, 0, 30)
    assert [n for n, loss in enumerate(losses) if not math.isfinite(loss)] == [*bad_steps]
    for step in bad_steps:
        losses[step] = losses[step - 1]
    assert list(done.training_losses) == losses
    assert_same(state_of(worker.replica)["tensors"], state_of(other.replica)["tensors"])


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_ten_of_them_in_a_row_are_a_divergence(precision: str):
    bad_steps = tuple(range(5, 15)) if precision == "fp16" else (13,)
    worker = make_worker(Overflowing(Moving, bad_steps=bad_steps, precision=precision))
    done = worker.run_apply(Apply(1, Segment(0, 29, 0.05)), silent)
    assert done.diverged
    assert len(done.training_losses) == 20
