from __future__ import annotations

import pytest

from ray_autolrs.algorithm.schedules.run_shapes import WSD, Constant, Cosine, Linear
from ray_autolrs.algorithm.schedules.shapes import Flat, WarmupCosine, WarmupStableDecay


@pytest.mark.parametrize(
    ("shape", "steps", "warmup_steps", "warmup_power", "expected"),
    [
        (Constant(), 1000, 100, 0.5, WarmupStableDecay(0, None, 100, 0, 0.5)),
        (Constant(), 1000, 100, 1.5, WarmupStableDecay(0, None, 100, 0, 1.5)),
        (Constant(), 1000, 0, 0.5, Flat()),
        (WSD(), 1000, 100, 0.5, WarmupStableDecay(0, 1000, 100, 300, 0.5)),
        (WSD(decay_fraction=0.1), 1000, 100, 0.5, WarmupStableDecay(0, 1000, 100, 100, 0.5)),
        (WSD(), 1000, 0, 1.0, WarmupStableDecay(0, 1000, 0, 300)),
        (WSD(decay_fraction=0.01), 20, 0, 1.0, WarmupStableDecay(0, 20, 0, 1)),
        (Linear(), 1000, 100, 0.5, WarmupStableDecay(0, 1000, 100, 900, 0.5)),
        (Linear(), 1000, 0, 1.0, WarmupStableDecay(0, 1000, 0, 1000)),
        (Cosine(), 1000, 100, 0.5, WarmupCosine(0, 1000, 100, 0.5)),
        # Without an end nothing falls until the user asks for it.
        (Constant(), None, 500, 0.5, WarmupStableDecay(0, None, 500, 0, 0.5)),
        (WSD(), None, 500, 0.5, WarmupStableDecay(0, None, 500, 0, 0.5)),
        (WSD(), None, 0, 1.0, Flat()),
    ],
)
def test_the_warm_up_rises_to_the_lr_that_was_found(
    shape, steps, warmup_steps, warmup_power, expected
):
    assert shape.over(0, steps, warmup_steps=warmup_steps, warmup_power=warmup_power) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (Constant(), Flat()),
        (WSD(), WarmupStableDecay(100, 900, 0, 270)),
        (Linear(), WarmupStableDecay(100, 900, 0, 900)),
        (Cosine(), WarmupCosine(100, 900)),
    ],
)
def test_a_warm_up_of_its_own_comes_before(shape, expected):
    assert shape.over(100, 900, warmup_steps=0, warmup_power=1.0) == expected


@pytest.mark.parametrize("shape", [WSD(), Linear(), Cosine()])
@pytest.mark.parametrize(("first_step", "warmup_steps"), [(0, 100), (100, 0)])
def test_what_falls_is_near_zero_in_the_last_step_and_full_after_the_warm_up(
    shape, first_step, warmup_steps
):
    found = shape.over(first_step, 1000 - first_step, warmup_steps=warmup_steps, warmup_power=1.0)
    assert found.factor(100) == pytest.approx(1.0, abs=2e-3)
    assert 0 < found.factor(999) < 0.005
    assert found.factor(1000) == 0


@pytest.mark.parametrize(
    ("shape", "needs_end", "decay_fraction"),
    [
        (Constant(), False, 0.0),
        (WSD(0.2), False, 0.2),
        (Linear(), True, 1.0),
        (Cosine(), True, 1.0),
    ],
)
def test_only_those_that_fall_from_the_start_need_an_end(shape, needs_end, decay_fraction):
    assert (shape.needs_end, shape.decay_fraction) == (needs_end, decay_fraction)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, "0.3", None])
def test_a_decay_is_a_part_of_the_run(fraction):
    with pytest.raises(ValueError, match=rf"WSD\.decay_fraction={fraction!r} must be a number in"):
        WSD(decay_fraction=fraction)
