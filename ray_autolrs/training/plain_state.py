"""State as plain data: what a file may hold that is loaded without running anything of it.

Plain data are tensors, numbers, strings, bytes, None, and dicts, lists, tuples and sets of them:
what ``torch.load(weights_only=True)`` builds. A type of one's own is plain once it is registered
with ``torch.serialization.add_safe_globals`` in every process, for example where the task's
module is imported.

Optimizers also keep NumPy's numbers and arrays, such as an LR drawn by ``np.logspace``. They are
stored as their bytes, and come back as they were.
"""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ray_autolrs.training.data_parallel import is_split

ARRAY_KEY = "ray_autolrs.numpy"
"""The key that a dict which stands for a NumPy value has."""

_LEAVES: tuple[type, ...] = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray),
    *(Tensor, nn.Parameter, torch.Size, torch.dtype, torch.device),
)
_MAPPINGS: tuple[type, ...] = (dict, collections.OrderedDict, collections.Counter)
_SEQUENCES: tuple[type, ...] = (list, tuple, set)


def as_plain(value: Any, place: str, *, arrays: bool) -> Any:
    """Return a value with NumPy's parts replaced; tensors are shared.

    Args:
        value: nested containers.
        place: where it comes from, for the message.
        arrays: whether NumPy's numbers and arrays may be in it.

    Raises:
        ValueError: a part is not plain.
    """
    kind = type(value)
    if kind in _MAPPINGS:
        keys = [as_plain(key, f"a key of {place}", arrays=arrays) for key in value]
        parts = [as_plain(part, f"{place}[{key!r}]", arrays=arrays) for key, part in value.items()]
        return kind(dict(zip(keys, parts, strict=True)))
    if kind in _SEQUENCES:
        return kind(
            as_plain(part, f"{place}[{number}]", arrays=arrays) for number, part in enumerate(value)
        )
    # What torch writes for b"" it does not load.
    if (
        (kind in _LEAVES and not (kind is bytes and not value))
        or kind in torch.serialization.get_safe_globals()
        or is_split(value)  # taken out before the rest is written (training.shard_files)
    ):
        return value
    if arrays and isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        array = np.ascontiguousarray(value)
        return {
            ARRAY_KEY: "array" if isinstance(value, np.ndarray) else "number",
            "dtype": array.dtype.str,
            "shape": tuple(np.shape(value)),
            "bytes": torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8)
            if array.size
            else torch.empty(0, dtype=torch.uint8),
        }
    raise ValueError(
        f"{place} is {_short(value)} of type {kind.__module__}.{kind.__qualname__}, which a "
        "checkpoint cannot hold: its files are plain data, so that nobody's file runs code. Keep "
        "tensors, numbers, strings, and dicts, lists and tuples of them, or register the type "
        "with torch.serialization.add_safe_globals in every process"
    )


def from_plain(value: Any) -> Any:
    """Return what :func:`as_plain` was given."""
    kind = type(value)
    if kind is dict and ARRAY_KEY in value:
        dtype = np.dtype(value["dtype"])
        array = np.ndarray(value["shape"], dtype, value["bytes"].cpu().numpy().data).copy()
        return array if value[ARRAY_KEY] == "array" else array[()]
    if kind in _MAPPINGS:
        return kind({from_plain(key): from_plain(part) for key, part in value.items()})
    if kind in _SEQUENCES:
        return kind(from_plain(part) for part in value)
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
