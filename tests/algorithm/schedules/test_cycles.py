"""The cycles against torch's schedules, and against literal tables."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from torch.optim import lr_scheduler

from ray_autolrs.algorithm.schedules.cycles import CosineRestarts, Cyclic, OneCycle
from ray_autolrs.algorithm.schedules.segments import SHAPES, Segment
from tests.algorithm.reference import PEAK, factors, reference_factors

STEPS = 100


@pytest.mark.parametrize(("anneal", "strategy"), [("cosine", "cos"), ("linear", "linear")])
@pytest.mark.parametrize("rise_fraction", [0.3, 0.25, 0.117, 0.9])
def test_one_cycle_equals_torch(anneal, strategy, rise_fraction):
    make = partial(
        lr_scheduler.OneCycleLR,
        max_lr=PEAK,
        total_steps=STEPS,
        pct_start=rise_fraction,
        anneal_strategy=strategy,
    )
    shape = OneCycle(0, STEPS, rise_fraction, anneal=anneal)
    # torch refuses to be stepped past its end.
    expected = reference_factors(make, STEPS - 1)
    assert factors(shape, STEPS - 1) == pytest.approx(expected, rel=1e-9)
    assert shape.factor(STEPS - 1) == shape.factor(STEPS + 9) == pytest.approx(1 / 25e4)


@pytest.mark.parametrize(
    ("mode", "gamma"),
    [("triangular", 1.0), ("triangular2", 1.0), ("exp_range", 0.97), ("exp_range", 1.0)],
)
@pytest.mark.parametrize(("half_cycle", "floor"), [(1, 0.25), (8, 0.0), (13, 0.1)])
def test_clr_equals_torch(mode, gamma, half_cycle, floor):
    make = partial(
        lr_scheduler.CyclicLR,
        base_lr=PEAK * floor,
        max_lr=PEAK,
        step_size_up=half_cycle,
        mode=mode,
        gamma=gamma,
    )
    shape = Cyclic(0, half_cycle, floor, mode, gamma)
    assert factors(shape, STEPS) == pytest.approx(reference_factors(make, STEPS), abs=1e-12)


@pytest.mark.parametrize(("first_cycle", "growth"), [(7, 1), (1, 1), (3, 2), (1, 2), (2, 3)])
@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_sgdr_equals_torch(first_cycle, growth, floor):
    make = partial(
        lr_scheduler.CosineAnnealingWarmRestarts,
        T_0=first_cycle,
        T_mult=growth,
        eta_min=PEAK * floor,
    )
    shape = CosineRestarts(0, first_cycle, growth, floor)
    assert factors(shape, STEPS) == pytest.approx(reference_factors(make, STEPS), abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "steps", "expected"),
    [
        (
            OneCycle(10, 10, 0.5, 0.2, 0.0, "linear"),
            [0, 10, 12, 14, 15, 19, 20],
            [0.2, 0.2, 0.6, 1.0, 0.8, 0.0, 0.0],
        ),
        (Cyclic(4, 2, 0.5), [0, 4, 5, 6, 7, 8, 10], [0.5, 0.5, 0.75, 1.0, 0.75, 0.5, 1.0]),
        (Cyclic(0, 1, 0.0, "triangular2"), [0, 1, 2, 3, 4, 5], [0.0, 1.0, 0.0, 0.5, 0.0, 0.25]),
        (Cyclic(3, 1, 0.0, "exp_range", 0.5), [3, 4, 5, 6], [0.0, 0.5, 0.0, 0.125]),
        (CosineRestarts(5, 2), [0, 5, 6, 7, 8, 9], [1.0, 1.0, 0.5, 1.0, 0.5, 1.0]),
        (CosineRestarts(0, 1, 2, 0.5), [0, 1, 2, 3, 5, 7], [1.0, 1.0, 0.75, 1.0, 0.75, 1.0]),
    ],
)
def test_table(shape, steps, expected):
    assert [shape.factor(step) for step in steps] == pytest.approx(expected, abs=1e-15)


def test_a_restart_far_away_is_exact():
    # With a first cycle of 3 that doubles, cycle c begins at 3 (2^c - 1).
    shape = CosineRestarts(0, 3, 2)
    for cycle in range(1, 60):
        begin = 3 * (2**cycle - 1)
        assert shape.factor(begin) == 1.0
        assert shape.factor(begin - 1) < 0.5


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        (
            OneCycle,
            {"first_step": 0, "steps": 0},
            r"OneCycle\.steps=0 must be an integer of at least 1",
        ),
        (
            OneCycle,
            {"first_step": 0, "steps": 9, "rise_fraction": 1.0},
            r"OneCycle\.rise_fraction=1\.0 must lie in \(0, 1\)",
        ),
        (
            OneCycle,
            {"first_step": 0, "steps": 3, "rise_fraction": 0.3},
            r"steps=3 times rise_fraction=0\.3 must be more than 1",
        ),
        (
            OneCycle,
            {"first_step": 0, "steps": 9, "rise_fraction": 0.3, "start": 1.0},
            r"OneCycle\.start=1\.0 must lie in \[0, 1\)",
        ),
        (
            OneCycle,
            {"first_step": 0, "steps": 9, "rise_fraction": 0.3, "start": 0.1, "end": -1},
            r"OneCycle\.end=-1 must lie in",
        ),
        (
            OneCycle,
            {"first_step": 0, "steps": 9, "anneal": "cos"},
            r"OneCycle\.anneal='cos' must be one of",
        ),
        (Cyclic, {"first_step": -1, "half_cycle": 4}, r"Cyclic\.first_step=-1 must be an integer"),
        (
            Cyclic,
            {"first_step": 0, "half_cycle": 0},
            r"Cyclic\.half_cycle=0 must be an integer of at least 1",
        ),
        (
            Cyclic,
            {"first_step": 0, "half_cycle": 4, "floor": 1.0},
            r"Cyclic\.floor=1\.0 must lie in",
        ),
        (
            Cyclic,
            {"first_step": 0, "half_cycle": 4, "mode": "square"},
            r"Cyclic\.mode='square' must be one of",
        ),
        (
            Cyclic,
            {"first_step": 0, "half_cycle": 4, "gamma": 0.9},
            r"gamma=0\.9 is for mode='exp_range' only; leave it",
        ),
        (
            Cyclic,
            {"first_step": 0, "half_cycle": 4, "floor": 0.1, "mode": "exp_range", "gamma": 1.1},
            r"Cyclic\.gamma=1\.1 must lie in \(0, 1\]",
        ),
        (
            CosineRestarts,
            {"first_step": 0, "first_cycle": 0},
            r"first_cycle=0 must be an integer of at least 1",
        ),
        (
            CosineRestarts,
            {"first_step": 0, "first_cycle": 4, "growth": 0},
            r"growth=0 must be an integer of at least 1",
        ),
        (
            CosineRestarts,
            {"first_step": 0, "first_cycle": 4, "growth": 1.5},
            r"growth=1\.5 must be an integer",
        ),
    ],
)
def test_refuses(shape, fields, message):
    with pytest.raises(ValueError, match=message):
        shape(**fields)


SAMPLES: dict[str, dict[str, Any]] = {
    "constant": {},
    "linear_warmup": {"first_step": 3, "steps": 40},
    "linear": {"first_step": 3, "steps": 40, "floor": 0.1},
    "cosine": {"first_step": 3, "steps": 40, "floor": 0.1, "warmup_steps": 4},
    "trapezoid": {"first_step": 3, "steps": 40, "warmup_steps": 4, "decay_steps": 10},
    "polynomial": {"first_step": 3, "steps": 40, "power": 0.9, "floor": 0.0},
    "wsd": {"first_step": 3, "steps": 40, "decay_steps": 9, "curve": "1-sqrt", "floor": 0.0},
    "inverse_sqrt": {"first_step": 3, "timescale": 40},
    "multi_step": {"milestones": (10, 20), "gamma": 0.1},
    "one_cycle": {"first_step": 3, "steps": 40, "rise_fraction": 0.4, "anneal": "linear"},
    "cyclic": {"first_step": 3, "half_cycle": 4, "mode": "exp_range", "gamma": 0.99},
    "cosine_restarts": {"first_step": 3, "first_cycle": 4, "growth": 2, "floor": 0.1},
}


def make_sample(name: str) -> Any:
    return SHAPES[name](**SAMPLES[name])


def test_every_shape_has_a_sample():
    assert {*SAMPLES} == {*SHAPES}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_shape_survives_json(name):
    segment = Segment(3, 42, 0.1 + 0.2, make_sample(name))
    loaded = Segment.from_dict(json.loads(json.dumps(segment.to_dict())))
    assert loaded == segment
    assert [loaded.lr_at(step) for step in range(3, 43)] == [
        segment.lr_at(step) for step in range(3, 43)
    ]


def test_a_shape_in_a_file_is_checked():
    values = Segment(0, 9, 0.3, CosineRestarts(0, 4)).to_dict()
    values["shape"]["growth"] = 0
    with pytest.raises(ValueError, match=r"CosineRestarts\.growth=0 must be an integer"):
        Segment.from_dict(values)
