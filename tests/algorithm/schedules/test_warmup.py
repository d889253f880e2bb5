from __future__ import annotations

import pytest

from ray_autolrs.algorithm.schedules.warmup import Warmup


@pytest.mark.parametrize(
    ("given", "total_steps", "is_averaged", "steps", "power"),
    [
        (Warmup(), 1000, True, 200, 0.5),
        (Warmup(), 1000, False, 50, 1.0),
        (Warmup(), None, True, 500, 0.5),
        (Warmup(), None, False, 100, 1.0),
        (Warmup(steps=7), 1000, True, 7, 0.5),
        (Warmup(steps=0), 1000, True, 0, 0.5),
        (Warmup(power=1.5), 1000, True, 200, 1.5),
        # Before the first search it is short and linear, averaged or not.
        (Warmup(lr=0.1), 1000, True, 50, 1.0),
        (Warmup(lr=0.1), None, True, 100, 1.0),
        (Warmup(lr=0.1, power=0.5), 1000, False, 50, 0.5),
    ],
)
def test_length_and_power_are_filled_in(given, total_steps, is_averaged, steps, power):
    resolved = given.resolve(total_steps, is_averaged=is_averaged)
    assert resolved == Warmup(steps=steps, power=power, lr=given.lr)
    assert resolved.resolve(10, is_averaged=not is_averaged) == resolved


@pytest.mark.parametrize(
    ("resolved", "steps"),
    [(Warmup(steps=20), 0), (Warmup(steps=20, lr=0.1), 20), (Warmup(steps=0, lr=0.1), 0)],
)
def test_only_one_with_an_lr_comes_before_the_search(resolved, steps):
    assert resolved.steps_before_search == steps


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": -1}, r"Warmup\.steps=-1 must be None or an integer of at least 0"),
        ({"steps": 1.0}, r"Warmup\.steps=1\.0 must be None or an integer"),
        ({"power": 0}, r"Warmup\.power=0 must be None or a positive, finite number"),
        ({"lr": float("inf")}, r"Warmup\.lr=inf must be None or a positive, finite number"),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        Warmup(**fields)
