"""The few things that workers do together, as one small interface.

Everything above it is written once: a group of one (a single worker, or a worker that probes
by itself) computes the same as a group of many.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


class Group(Protocol):
    """Workers in lock-step: each calls the same method at the same time."""

    rank: int
    size: int

    def sum_(self, tensor: Tensor) -> None:
        """Replace ``tensor`` by its sum over the workers, in place."""

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Replace ``tensors`` by those of rank 0, in place."""

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's ``value``, a picklable object, on every worker."""

    def gather(self, value: Any) -> list[Any]:
        """Return every worker's ``value``, a picklable object, by rank, on every worker."""

    def mesh(self) -> DeviceMesh | None:
        """Return the workers as what a model is sharded over; None has nobody to share with."""


class Solo:
    """A group of one."""

    rank = 0
    size = 1

    def sum_(self, tensor: Tensor) -> None:
        return

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        return

    def broadcast_object(self, value: Any) -> Any:
        return value

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def mesh(self) -> DeviceMesh | None:
        return None


class ProcessGroup:
    """The default group of ``torch.distributed``, which the caller has initialised.

    Args:
        device: where tensors of a collective must live: the GPU with NCCL, else the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._device = device

    def sum_(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor)

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        # One message for each dtype: a network with BatchNorm has hundreds of small buffers.
        for group in by_dtype.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
            dist.broadcast(flat, src=0)
            parts = torch.split(flat, [tensor.numel() for tensor in group])
            for tensor, values in zip(group, parts, strict=True):
                tensor.detach().copy_(values.view_as(tensor))

    def broadcast_object(self, value: Any) -> Any:
        held = [value]
        dist.broadcast_object_list(held, src=0, device=self._device)
        return cast("Any", held[0])

    def gather(self, value: Any) -> list[Any]:
        held: list[Any] = [None] * self.size
        dist.all_gather_object(held, value)
        return held

    def mesh(self) -> DeviceMesh | None:
        return init_device_mesh(self._device.type, (self.size,))
