from __future__ import annotations

import collections
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_autolrs.training.plain_state import as_plain, from_plain


def stored_and_loaded(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(as_plain(value, "it", arrays=True), file)
    file.seek(0)
    return from_plain(torch.load(file, weights_only=True))


@pytest.mark.parametrize(
    "value",
    [
        {"lr": 0.1, "betas": (0.9, 0.999), "name": "a", "on": True, "none": None, 3: [1j, b"x"]},
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        {1, 2},
        [torch.float32, torch.Size([2, 3]), torch.device("cpu")],
        np.float64(0.1),
        np.float32(0.1),
        np.int64(3),
        np.bool_(True),
        {"lr": np.logspace(-3, 0, 4)[1], "betas": (np.float64(0.9), 0.99)},
    ],
)
def test_plain_values_and_numpy_numbers_come_back_as_they_were(value):
    back = stored_and_loaded(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3).T, np.zeros((0, 2)), np.array(1.5), np.arange(3) > 1]
)
def test_arrays_come_back_as_they_were(array):
    back = stored_and_loaded({"state": [array]})["state"][0]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable


def test_tensors_are_shared():
    tensor = torch.zeros(3)
    assert as_plain({"a": [tensor]}, "it", arrays=False)["a"][0] is tensor


class Own(dict[str, int]):
    pass


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "value", [object(), print, Path(), Own(), Pair(1, 2), np.array([object()]), np.array("x"), b""]
)
def test_anything_else_is_refused_with_its_place(value):
    with pytest.raises(ValueError, match=r"^optimizer\['groups'\]\[0\] is .* a checkpoint cannot"):
        as_plain({"groups": [value]}, "optimizer", arrays=True)


def test_arrays_are_refused_where_they_are_not_replaced():
    with pytest.raises(ValueError, match=r"of type numpy.float64, which a checkpoint cannot hold"):
        as_plain(np.float64(1), "it", arrays=False)
