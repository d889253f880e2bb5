"""A snapshot as plain byte arrays, to be shared with other processes through an object store.

Pickling torch tensors into Ray's object store takes ten times as long as NumPy arrays, which
are copied into shared memory as they are, once, and read there by every process of a node
without a copy. So a snapshot is taken apart into a small layout and the bytes of its tensors.

What was unpacked lies in memory that other processes read: nothing may write to it. A
snapshot's ``restore`` only copies out of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = Any
"""Nested dicts, lists and tuples, with tensors and other values for leaves."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a tensor in a layout.

    Attributes:
        index: number of its byte array.
        dtype: its data type, by name.
        shape: its shape.
        on_gpu: whether it lived on a GPU.
    """

    index: int
    dtype: str
    shape: tuple[int, ...]
    on_gpu: bool


@dataclass(frozen=True, slots=True)
class PackedState:
    """A state taken apart.

    Attributes:
        layout: the state with a :class:`Slot` for each tensor.
        arrays: the tensors' bytes, one-dimensional.
    """

    layout: State
    arrays: list[Bytes]


def pack(state: State) -> PackedState:
    """Take a state apart. On the CPU the arrays share the tensors' memory: copy, or put at once."""
    arrays: list[Bytes] = []

    def slot(tensor: Tensor) -> Slot:
        plain = tensor.detach().cpu().contiguous()
        arrays.append(plain.reshape(-1).view(torch.uint8).numpy())
        return Slot(
            index=len(arrays) - 1,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            on_gpu=tensor.device.type == "cuda",
        )

    return PackedState(_replace(state, Tensor, slot), arrays)


def unpack(packed: PackedState, device: torch.device) -> State:
    """Put a state together again, for a process whose model lives on ``device``.

    On the CPU the tensors share the arrays' memory. With a GPU, what lived on one is copied to
    it, so that each restore after it copies within the GPU's memory.
    """

    def tensor(slot: Slot) -> Tensor:
        dtype: torch.dtype = getattr(torch, slot.dtype)
        if packed.arrays[slot.index].size == 0:  # has no bytes to look at as another type
            return torch.empty(slot.shape, dtype=dtype)
        with warnings.catch_warnings():
            # Arrays in the object store are read-only, which torch cannot express.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            flat = torch.from_numpy(packed.arrays[slot.index])
        plain = flat.view(dtype).reshape(slot.shape)
        return plain.to(device) if slot.on_gpu and device.type == "cuda" else plain

    return _replace(packed.layout, Slot, tensor)


def _replace(state: State, kind: type, replacement: Callable[[Any], Any]) -> State:
    """Return a copy of nested containers with every leaf of a kind replaced."""
    if isinstance(state, kind):
        return replacement(state)
    if isinstance(state, dict):
        return {key: _replace(value, kind, replacement) for key, value in state.items()}
    if isinstance(state, list):
        return [_replace(value, kind, replacement) for value in state]
    if isinstance(state, tuple) and not hasattr(state, "_fields"):
        return tuple(_replace(value, kind, replacement) for value in state)
    return state
