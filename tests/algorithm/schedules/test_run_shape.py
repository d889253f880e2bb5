from __future__ import annotations

import pytest

from ray_autolrs.algorithm.schedules.decays import Cosine, Linear, Trapezoid
from ray_autolrs.algorithm.schedules.run_shape import run_shape
from ray_autolrs.algorithm.schedules.shapes import Constant
from ray_autolrs.config import AutoLRSConfig


def config(**overrides) -> AutoLRSConfig:
    values = {"total_steps": 1000, "lr_min": 1e-3, "lr_max": 1.0, "warmup_steps": 100}
    return AutoLRSConfig(**(values | overrides))


@pytest.mark.parametrize(
    ("overrides", "shape"),
    [
        ({}, Trapezoid(0, None, 100, 0, 0.5)),
        ({"warmup_power": 1.5}, Trapezoid(0, None, 100, 0, 1.5)),
        ({"averaging": "none"}, Trapezoid(0, None, 100, 0)),
        ({"warmup_steps": 0}, Constant()),
        ({"warmup_steps": None}, Trapezoid(0, None, 200, 0, 0.5)),
        ({"warmup_steps": None, "averaging": "none"}, Trapezoid(0, None, 50, 0)),
        ({"shape": "wsd"}, Trapezoid(0, 1000, 100, 300, 0.5)),
        ({"shape": "wsd", "decay_fraction": 0.1}, Trapezoid(0, 1000, 100, 100, 0.5)),
        ({"shape": "wsd", "warmup_steps": 0}, Trapezoid(0, 1000, 0, 300)),
        ({"shape": "linear"}, Trapezoid(0, 1000, 100, 900, 0.5)),
        ({"shape": "linear", "warmup_steps": 0}, Linear(0, 1000)),
        ({"shape": "cosine"}, Cosine(0, 1000, warmup_steps=100, warmup_power=0.5)),
        # Without an end nothing falls until the user asks for it.
        ({"total_steps": None, "warmup_steps": None}, Trapezoid(0, None, 500, 0, 0.5)),
        ({"total_steps": None, "shape": "wsd", "warmup_steps": 0}, Constant()),
    ],
)
def test_the_warm_up_rises_to_the_lr_that_was_found(overrides, shape):
    assert run_shape(config(**overrides)) == shape


@pytest.mark.parametrize("search", ["midpoints", "gaussian_process"])
@pytest.mark.parametrize(
    ("overrides", "shape"),
    [
        ({}, Constant()),
        ({"shape": "wsd"}, Trapezoid(100, 900, 0, 270)),
        ({"shape": "linear"}, Linear(100, 900)),
        ({"shape": "cosine"}, Cosine(100, 900)),
        ({"total_steps": None, "shape": "wsd", "first_stage_steps": 500}, Constant()),
    ],
)
def test_a_warm_up_of_its_own_comes_before(search, overrides, shape):
    values = {"search": search, "first_stage_steps": 200} | overrides
    assert run_shape(config(**values)) == shape


@pytest.mark.parametrize("shape", ["wsd", "linear", "cosine"])
@pytest.mark.parametrize("search", ["halving", "midpoints"])
def test_what_falls_is_near_zero_in_the_last_step_and_full_after_the_warm_up(shape, search):
    found = run_shape(config(shape=shape, search=search, first_stage_steps=200))
    assert found.factor(100) == pytest.approx(1.0, abs=2e-3)
    assert 0 < found.factor(999) < 0.005
    assert found.factor(1000) == 0
