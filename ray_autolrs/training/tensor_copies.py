"""Copies of tensors that write into the memory of an earlier copy, where there is one.

They are made without gradients: call them under ``torch.no_grad``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CopyTensor = Callable[[Tensor, Any], Tensor]
"""From a tensor, and what may be written to if it is a tensor like the copy, to the copy."""


def within_device(tensor: Tensor, reuse: Any) -> Tensor:
    """Copy within the memory of the tensor's device."""
    if _fits(tensor, reuse) and reuse.device == tensor.device:
        return reuse.copy_(tensor)  # type: ignore[no-any-return]
    return tensor.clone()


def to_host(tensor: Tensor, reuse: Any) -> Tensor:
    """Copy to host memory; from a GPU into pinned memory, without waiting for it."""
    if not tensor.is_cuda:
        return within_device(tensor, reuse)
    fits = _fits(tensor, reuse) and reuse.device.type == "cpu"
    held: Tensor = reuse if fits else torch.empty_like(tensor, device="cpu", pin_memory=True)
    return held.copy_(tensor, non_blocking=True)


def _fits(tensor: Tensor, reuse: Any) -> bool:
    # A copy of hundreds of tensors holds training up: no tuples are made to compare them.
    return isinstance(reuse, Tensor) and reuse.dtype == tensor.dtype and reuse.shape == tensor.shape
