"""Settings of another type: numbers of NumPy and torch are taken, all else is refused by name."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from ray_autolrs import (
    EMA,
    AutoLRSConfig,
    Bracket,
    GaussianProcess,
    Lanes,
    Looks,
    Research,
    ScheduleFreeAverage,
    Stages,
    Validation,
    Warmup,
)
from ray_autolrs.algorithm.forecast.exponential import Exponential
from ray_autolrs.algorithm.schedules.run_shapes import WSD

NUMBERS = [np.float32, np.float64, np.array, torch.tensor]


@pytest.mark.parametrize("kind", NUMBERS, ids=lambda kind: kind.__name__)
def test_lrs_computed_with_numpy_or_torch_are_taken(kind):
    for lr in (kind(0.25), (kind(0.125), kind(0.5))):
        config = AutoLRSConfig(total_steps=40, lr=lr)
        assert config == AutoLRSConfig(
            total_steps=40, lr=0.25 if not isinstance(lr, tuple) else (0.125, 0.5)
        )
        json.dumps(config.resolve(global_batch_size=8).to_json(), allow_nan=False)


PARTS: list[Any] = [
    AutoLRSConfig(total_steps=1000, lr=(1e-3, 1.0)),
    Bracket(),
    Research(),
    Looks(),
    GaussianProcess(),
    Exponential(),
    Stages(),
    Warmup(),
    Validation(),
    Lanes(),
    ScheduleFreeAverage(),
    EMA(),
    WSD(),
]
WRONG = ["1", [1], {"a": 1}, object(), 1j, b"1", float("nan"), -1.5, 10**400]
SOUND = [("kind", "1"), ("resources", {"a": 1})]
"""A kind of lane of one's own, and a resource of one's own."""


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_a_setting_of_another_type_is_refused_by_its_name(part):
    for field in dataclasses.fields(part):
        for wrong in WRONG:
            if (field.name, wrong) in SOUND:
                continue
            with pytest.raises(ValueError, match=rf"{type(part).__name__}\.{field.name}="):
                dataclasses.replace(part, **{field.name: wrong})


@pytest.mark.parametrize(
    "resources", [{"CPU": 1j}, {"CPU": "1"}, {"CPU": [1]}, {1: 1}, {"CPU": None}, "CPU"]
)
def test_resources_of_another_type_are_refused(resources):
    with pytest.raises(ValueError, match=r"Lanes.resources"):
        Lanes(kind="actors", resources=resources)
