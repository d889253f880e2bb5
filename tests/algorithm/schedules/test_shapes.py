"""The shapes against factors of transformers' schedules, and against literal tables."""

from __future__ import annotations

import json
import math

import pytest

from ray_autolrs.algorithm.schedules.segments import Segment
from ray_autolrs.algorithm.schedules.shapes import (
    Flat,
    Piecewise,
    WarmupCosine,
    WarmupStableDecay,
)

THIRDS = [1 / 3, 2 / 3, 1.0]
HALF_WAVE = [1.0, 0.961939766, 0.853553391, 0.691341716, 0.5, 0.308658284, 0.146446609, 0.038060234]


@pytest.mark.parametrize(
    ("shape", "fall"),
    [
        (WarmupStableDecay(0, 11, 3, 8), [1 - i / 8 for i in range(8)]),
        (WarmupCosine(0, 11, 3), HALF_WAVE),
        (WarmupStableDecay(0, 11, 3, 4), [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]),
    ],
    ids=["linear", "cosine", "wsd"],
)
def test_equals_transformers(shape, fall):
    """Recorded from 5.23, ``get_*_schedule`` with 3 steps of warm-up, 11 in all, 4 of decay.

    It warms up from 0 and is one step late: its factor at step 1 is that of our step 0.
    """
    assert [shape.factor(step) for step in range(12)] == pytest.approx(
        [*THIRDS, *fall, 0.0], abs=1e-9
    )


@pytest.mark.parametrize(
    ("shape", "steps", "expected"),
    [
        (Flat(), [0, 999], [1.0, 1.0]),
        (
            WarmupStableDecay(10, 4, 0, 4),
            [0, 10, 11, 12, 13, 14, 99],
            [1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0],
        ),
        (WarmupStableDecay(5, 10, 0, 4), [0, 5, 11, 12, 14, 15, 16], [1, 1, 1, 0.75, 0.25, 0, 0]),
        (WarmupStableDecay(10, None, 4, 0), [0, 10, 11, 13, 99], [0.25, 0.25, 0.5, 1.0, 1.0]),
        (WarmupStableDecay(0, 4, 2, 2), [0, 1, 2, 3, 4], [0.5, 1.0, 1.0, 0.5, 0.0]),
        (WarmupCosine(10, 2), [9, 10, 11, 12, 13], [1.0, 1.0, 0.5, 0.0, 0.0]),
        (WarmupCosine(10, 6, 2), [0, 10, 11, 12, 14, 16, 99], [0.5, 0.5, 1.0, 1.0, 0.5, 0, 0]),
    ],
)
def test_table(shape, steps, expected):
    assert [shape.factor(step) for step in steps] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    "shape",
    [
        WarmupStableDecay(10, 100, 16, 0, warmup_power=0.5),
        WarmupStableDecay(10, None, 16, 0, 0.5),
        WarmupCosine(10, 10**9, warmup_steps=16, warmup_power=0.5),
    ],
)
def test_a_warm_up_rises_with_its_power(shape):
    factors = [shape.factor(step) for step in (10, 13, 18, 25, 26)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: WarmupStableDecay(-1, 4, 0, 0),
            r"WarmupStableDecay\.first_step=-1 must be an integer of at least 0",
        ),
        (lambda: WarmupStableDecay(0, 0, 0, 0), r"steps=0 must be None or an integer of at least"),
        (lambda: WarmupStableDecay(0, True, 0, 0), r"steps=True must be None or an integer"),
        (lambda: WarmupStableDecay(0, 4, -1, 0), r"warmup_steps=-1 must be an integer of at least"),
        (lambda: WarmupStableDecay(0, 4, 0, True), r"decay_steps=True must be an integer"),
        (lambda: WarmupStableDecay(0, None, 0, 1), r"decay_steps=1 needs steps, to end with them"),
        (lambda: WarmupStableDecay(0, 4, 2, 3), r"warmup_steps=2 and decay_steps=3 must fit into"),
        (lambda: WarmupCosine(0, True), r"WarmupCosine\.steps=True must be an integer"),
        (lambda: WarmupCosine(0, 4, 4), r"WarmupCosine\.warmup_steps=4 must be smaller than steps"),
    ],
)
def test_refuses(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("power", [0.0, -1.0, math.inf, math.nan, True])
def test_a_warm_up_that_does_not_rise_is_refused(power):
    for build in (
        lambda: WarmupStableDecay(0, 10, 2, 0, warmup_power=power),
        lambda: WarmupCosine(0, 10, warmup_steps=2, warmup_power=power),
    ):
        with pytest.raises(ValueError, match=f"warmup_power={power!r} must be a positive"):
            build()


def test_a_polygon_goes_from_point_to_point_and_comes_back_from_json():
    shape = Piecewise(points=((2, 0.5), (4, 1.0), (8, 0.0)))
    factors = [shape.factor(step) for step in range(10)]
    assert factors == [0.5, 0.5, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    segment = Segment(0, 9, 0.1, shape)
    assert Segment.from_dict(json.loads(json.dumps(segment.to_dict()))) == segment


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ((), r"points=\(\) must be pairs"),
        (((0, 1.5),), r"points=.* must be pairs \(step, factor\)"),
        (((-1, 0.5),), r"points=.* must be pairs"),
        ((3,), r"points=\(3,\) must be pairs"),
        (((4, 0.5), (4, 1.0)), r"points=.* must be in the order of their steps, each step once"),
    ],
)
def test_a_polygon_of_other_points_is_refused(points, message):
    with pytest.raises(ValueError, match=rf"^Piecewise\.{message}"):
        Piecewise(points=points)
