from __future__ import annotations

import pytest

from ray_autolrs.training.averaging.ema import EMA
from tests.training.toy import (
    ToyTask,
    assert_near,
    averages,
    differs,
    make_worker,
    plain_net,
    train,
    values,
)


@pytest.mark.parametrize(
    ("decay", "weights"),
    [
        # c_t for t = 1, 2, 3, ...
        (0.999, [0.9, 9 / 11, 9 / 12, 9 / 13]),
        (0.15, [0.9, 0.85, 0.85, 0.85]),
    ],
)
def test_it_is_a_plain_loop_s(decay: float, weights: list[float]):
    worker = make_worker(ToyTask(plain_net), EMA(decay=decay))
    expected = values(worker.replica)
    assert not differs(averages(worker), expected)
    for step, weight in enumerate(weights):
        train(worker, step, 1, lr=0.2)
        newest = values(worker.replica)
        expected = [
            (1 - weight) * old + weight * new for old, new in zip(expected, newest, strict=True)
        ]
        assert_near(averages(worker), expected)


@pytest.mark.parametrize("decay", [0.0, 1.0, None])
def test_the_decay_is_checked(decay: float):
    with pytest.raises(ValueError, match=r"EMA\.decay=.* must be a number in \(0, 1\)"):
        EMA(decay=decay)
