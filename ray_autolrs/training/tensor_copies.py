"""Copies of tensors that write into the memory of an earlier copy, where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CopyTensor = Callable[[Tensor, Any], Tensor]
"""From a tensor, and what may be written to if it is a tensor like the copy, to the copy."""


def within_device(tensor: Tensor, reuse: Any) -> Tensor:
    """Copy within the memory of the tensor's device."""
    if isinstance(reuse, Tensor) and (reuse.shape, reuse.dtype, reuse.device) == (
        tensor.shape,
        tensor.dtype,
        tensor.device,
    ):
        return reuse.copy_(tensor.detach())
    return tensor.detach().clone()


def to_host(tensor: Tensor, reuse: Any) -> Tensor:
    """Copy to host memory; from a GPU into pinned memory, without waiting for it."""
    if not tensor.is_cuda:
        return within_device(tensor, reuse)
    fits = isinstance(reuse, Tensor) and (reuse.shape, reuse.dtype, reuse.device.type) == (
        tensor.shape,
        tensor.dtype,
        "cpu",
    )
    held: Tensor = reuse if fits else torch.empty_like(tensor, device="cpu", pin_memory=True)
    return held.copy_(tensor.detach(), non_blocking=True)
