from __future__ import annotations

import json

import pytest

from ray_autolrs.algorithm.schedules.segments import SHAPES, Segment, group_lrs
from ray_autolrs.algorithm.schedules.shapes import (
    Flat,
    Piecewise,
    Shape,
    WarmupCosine,
    WarmupStableDecay,
)


@pytest.mark.parametrize(
    ("segment", "steps", "lrs"),
    [
        (Segment(0, 9, 0.3), [0, 5, 9], [0.3, 0.3, 0.3]),
        (
            Segment(0, 3, 0.4, WarmupStableDecay(0, None, 4, 0)),
            [0, 1, 2, 3],
            [0.1, 0.2, 0.3, 0.4],
        ),
        (Segment(10, 13, 0.4, WarmupStableDecay(10, None, 4, 0)), [10, 13], [0.1, 0.4]),
        (Segment(4, 9, 0.4, WarmupStableDecay(0, None, 4, 0)), [4, 9], [0.4, 0.4]),
    ],
)
def test_lr_at(segment, steps, lrs):
    assert [segment.lr_at(step) for step in steps] == pytest.approx(lrs, rel=1e-15)


def test_step_outside_a_segment_is_our_own_mistake():
    with pytest.raises(AssertionError):
        Segment(10, 19, 0.1).lr_at(20)


SAMPLES: list[Shape] = [
    Flat(),
    WarmupStableDecay(3, 40, 4, 10, 0.5),
    WarmupStableDecay(0, None, 4, 0),
    WarmupCosine(3, 40, 4, 0.5),
    Piecewise(((3, 1.0), (42, 0.5))),
]


@pytest.mark.parametrize("shape", SAMPLES)
def test_json_round_trip(shape):
    segment = Segment(3, 42, 0.1 + 0.2, shape)
    loaded = Segment.from_dict(json.loads(json.dumps(segment.to_dict())))
    assert loaded == segment
    assert [loaded.lr_at(step) for step in range(3, 43)] == [
        segment.lr_at(step) for step in range(3, 43)
    ]
    assert segment.steps == 40


def test_every_shape_can_be_saved():
    assert {shape.name: type(shape) for shape in SAMPLES} == SHAPES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": {"name": "square"}}, "shape 'square' is unknown; the shapes are"),
        ({"shape": {"name": "flat", "steps": 3}}, "is not a segment"),
        ({"shape": {}}, "is not a segment"),
        ({"extra": 1}, "is not a segment"),
        (
            {"shape": {"name": "warmup_cosine", "first_step": 0, "steps": 0}},
            r"WarmupCosine\.steps=0 must be an integer of at least 1",
        ),
    ],
)
def test_malformed_segments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Segment.from_dict(Segment(0, 9, 0.3).to_dict() | change)


def test_first_group_gets_the_lr_to_the_last_bit():
    lrs = group_lrs(0.1 + 0.2, [0.7, 0.07, 0.0, 1.4])
    assert lrs[0] == 0.1 + 0.2
    assert lrs[1:] == pytest.approx([0.03, 0.0, 0.6])
