"""The decays against the schedules of torch and transformers, and against literal tables."""

from __future__ import annotations

import math
from functools import partial

import pytest
import transformers
from torch.optim import lr_scheduler

from ray_autolrs.algorithm.schedules.decays import (
    Cosine,
    InverseSqrt,
    Linear,
    MultiStep,
    Polynomial,
    Trapezoid,
    WarmupStableDecay,
)
from ray_autolrs.algorithm.schedules.shapes import Constant, LinearWarmup
from tests.algorithm.reference import factors, reference_factors

STEPS, WARMUP = 60, 7
AFTER = STEPS - WARMUP
FALL = {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 50}
PLAN: dict[str, object] = {"num_warmup_steps": WARMUP, "num_training_steps": STEPS}


@pytest.mark.parametrize(
    ("shape", "make", "settings"),
    [
        (Constant(), lr_scheduler.ConstantLR, {"factor": 1.0}),
        (Linear(0, 50), lr_scheduler.LinearLR, FALL),
        (
            Linear(0, 50, floor=0.25),
            lr_scheduler.LinearLR,
            {"start_factor": 1.0, "end_factor": 0.25, "total_iters": 50},
        ),
        (Cosine(0, STEPS), lr_scheduler.CosineAnnealingLR, {"T_max": STEPS}),
        (Cosine(0, STEPS, 0.1), lr_scheduler.CosineAnnealingLR, {"T_max": STEPS, "eta_min": 0.05}),
        (Polynomial(0, 50, 1.0), lr_scheduler.PolynomialLR, {"total_iters": 50, "power": 1.0}),
        (Polynomial(0, 50, 2.5), lr_scheduler.PolynomialLR, {"total_iters": 50, "power": 2.5}),
        (MultiStep((15, 30, 45), 0.3), lr_scheduler.StepLR, {"step_size": 15, "gamma": 0.3}),
        (MultiStep((9, 10, 40)), lr_scheduler.MultiStepLR, {"milestones": [9, 10, 40]}),
    ],
)
def test_equals_torch(shape, make, settings):
    expected = reference_factors(partial(make, **settings), STEPS)
    assert factors(shape, STEPS) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "make", "settings"),
    [
        (Constant(), transformers.get_constant_schedule_with_warmup, {"num_warmup_steps": WARMUP}),
        (Linear(WARMUP, AFTER), transformers.get_linear_schedule_with_warmup, PLAN),
        (Cosine(WARMUP, AFTER), transformers.get_cosine_schedule_with_warmup, PLAN),
        (
            Cosine(WARMUP, AFTER, floor=0.1),
            transformers.get_cosine_with_min_lr_schedule_with_warmup,
            PLAN | {"min_lr_rate": 0.1},
        ),
        (
            Polynomial(WARMUP, AFTER, power=2.0, floor=0.02),
            transformers.get_polynomial_decay_schedule_with_warmup,
            PLAN | {"power": 2.0, "lr_end": 0.01},
        ),
        (
            InverseSqrt(WARMUP, timescale=WARMUP),
            transformers.get_inverse_sqrt_schedule,
            {"num_warmup_steps": WARMUP},
        ),
        (
            InverseSqrt(WARMUP, timescale=40),
            transformers.get_inverse_sqrt_schedule,
            {"num_warmup_steps": WARMUP, "timescale": 40},
        ),
        *(
            (
                WarmupStableDecay(WARMUP, AFTER, 18, curve),
                transformers.get_wsd_schedule,
                PLAN | {"num_decay_steps": 18, "decay_type": curve},
            )
            for curve in ("linear", "cosine", "1-sqrt")
        ),
    ],
)
def test_equals_transformers_after_a_warmup(shape, make, settings):
    # With the first step beyond the end. transformers warms up from 0 and is one step late: its
    # factor at step 1 is that of our step 0.
    expected = reference_factors(partial(make, **settings), STEPS + 1)
    warmup = LinearWarmup(0, WARMUP)
    assert factors(warmup, WARMUP) == pytest.approx(expected[1 : WARMUP + 1], rel=1e-12)
    ours = factors(shape, STEPS + 1)[WARMUP:]
    assert ours == pytest.approx(expected[WARMUP:], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("shape", "steps", "expected"),
    [
        (Constant(), [0, 999], [1.0, 1.0]),
        (Linear(10, 4), [0, 10, 11, 12, 13, 14, 99], [1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
        (Linear(0, 2, 0.5), [0, 1, 2, 3], [1.0, 0.75, 0.5, 0.5]),
        (Cosine(10, 2), [9, 10, 11, 12, 13], [1.0, 1.0, 0.5, 0.0, 0.0]),
        (Cosine(0, 2, 0.2), [0, 1, 2], [1.0, 0.6, 0.2]),
        (Polynomial(2, 4, 2.0), [1, 2, 4, 5, 6, 7], [1.0, 1.0, 0.25, 0.0625, 0.0, 0.0]),
        (WarmupStableDecay(5, 10, 4), [0, 5, 11, 12, 14, 15, 16], [1, 1, 1, 0.75, 0.25, 0, 0]),
        (WarmupStableDecay(0, 4, 4, "1-sqrt", 0.1), [0, 1, 4, 5], [1.0, 0.55, 0.1, 0.1]),
        (InverseSqrt(4, 4), [0, 4, 16, 100], [1.0, 1.0, 0.5, 0.2]),
        (MultiStep((2, 4), 0.5), [0, 1, 2, 3, 4, 99], [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]),
        (MultiStep(()), [0, 99], [1.0, 1.0]),
    ],
)
def test_table(shape, steps, expected):
    assert [shape.factor(step) for step in steps] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        (
            Linear,
            {"first_step": -1, "steps": 4},
            r"Linear\.first_step=-1 must be an integer of at least 0",
        ),
        (
            Linear,
            {"first_step": 0, "steps": 0},
            r"Linear\.steps=0 must be an integer of at least 1",
        ),
        (Linear, {"first_step": 0, "steps": 4.0}, r"Linear\.steps=4\.0 must be an integer"),
        (Cosine, {"first_step": 0, "steps": True}, r"Cosine\.steps=True must be an integer"),
        (
            Cosine,
            {"first_step": 0, "steps": 4, "floor": 1.0},
            r"Cosine\.floor=1\.0 must lie in \[0, 1\): it is a factor",
        ),
        (Cosine, {"first_step": 0, "steps": 4, "floor": -0.1}, r"Cosine\.floor=-0\.1 must lie in"),
        (
            Cosine,
            {"first_step": 0, "steps": 4, "floor": float("nan")},
            r"Cosine\.floor=nan must lie in",
        ),
        (
            Polynomial,
            {"first_step": 0, "steps": 4, "power": 0},
            r"Polynomial\.power=0 must be a positive",
        ),
        (
            Polynomial,
            {"first_step": 0, "steps": 4, "power": float("inf")},
            r"Polynomial\.power=inf must be a positive",
        ),
        (
            WarmupStableDecay,
            {"first_step": 0, "steps": 4, "decay_steps": 0},
            r"decay_steps=0 must be an integer of at least 1",
        ),
        (
            WarmupStableDecay,
            {"first_step": 0, "steps": 4, "decay_steps": 5},
            r"decay_steps=5 must be at most steps=4; decay for",
        ),
        (
            WarmupStableDecay,
            {"first_step": 0, "steps": 4, "decay_steps": 2, "curve": "sqrt"},
            r"curve='sqrt' must be one of \('linear'",
        ),
        (
            InverseSqrt,
            {"first_step": 0, "timescale": 0},
            r"InverseSqrt\.timescale=0 must be an integer of at least 1",
        ),
        (MultiStep, {"milestones": 5}, r"MultiStep\.milestones=5 must be steps"),
        (MultiStep, {"milestones": (1.5,)}, r"milestones=\(1\.5,\) must be steps"),
        (MultiStep, {"milestones": (5, 5)}, r"milestones=\(5, 5\) must increase; sort them"),
        (
            MultiStep,
            {"milestones": (5,), "gamma": 0.0},
            r"MultiStep\.gamma=0\.0 must lie in \(0, 1\]",
        ),
        (MultiStep, {"milestones": (5,), "gamma": 1.5}, r"MultiStep\.gamma=1\.5 must lie in"),
    ],
)
def test_refuses(shape, fields, message):
    with pytest.raises(ValueError, match=message):
        shape(**fields)


@pytest.mark.parametrize(
    "shape",
    [
        Trapezoid(10, 100, 16, 0, warmup_power=0.5),
        Trapezoid(10, None, 16, 0, 0.5),
        Cosine(10, 10**9, warmup_steps=16, warmup_power=0.5),
    ],
)
def test_a_warm_up_rises_with_its_power(shape):
    factors = [shape.factor(step) for step in (10, 13, 18, 25, 26)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("power", [0.0, -1.0, math.inf, math.nan, True])
def test_a_warm_up_that_does_not_rise_is_refused(power):
    for build in (
        lambda: Trapezoid(0, 10, 2, 0, warmup_power=power),
        lambda: Cosine(0, 10, warmup_steps=2, warmup_power=power),
    ):
        with pytest.raises(ValueError, match=f"warmup_power={power!r} must be a positive"):
            build()
