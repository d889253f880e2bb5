"""How gradients are averaged: by torch's DDP, or as a user's own module does it."""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ray_autolrs.training.collectives import Group

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_NO_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}
"""DDP's argument against a broadcast of buffers at each forward pass; torch 2.14 renamed it."""


logger = logging.getLogger(__name__)


class Computed(nn.Module):
    """A forward pass that is a function of the module.

    DDP averages the gradients of what its own forward pass computes. With the whole loss in it, a
    loss may use the model as it likes: call its methods, parts of it, or the model twice.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, compute: Callable[[nn.Module], Tensor]) -> Tensor:
        return compute(self.module)


def data_parallel(
    module: nn.Module, device: torch.device, *, find_unused: bool = False
) -> DistributedDataParallel:
    """Return what workers call, with a function of the module, in a step that they take together.

    Buffers are not broadcast at each forward pass: in training mode no step reads a running
    statistic. :func:`ray_autolrs.training.snapshot.share_buffers` makes them rank 0's where
    they are read.

    Args:
        module: the worker's copy.
        device: where it lives.
        find_unused: look for parameters that the loss gives no gradient to. Without, DDP waits
            for the gradient of each one that needs it.
    """
    return DistributedDataParallel(
        Computed(module),
        device_ids=[device.index] if device.type == "cuda" else None,
        **_NO_BUFFERS,
        gradient_as_bucket_view=True,
        find_unused_parameters=find_unused,
    )


@contextlib.contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """Give the module's buffers back what they held; those that are made within stay."""
    kept = [buffer.clone() for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, before in zip(module.buffers(), kept, strict=False):
            buffer.copy_(before)


def warn_of_unused(module: nn.Module, group: Group, task_name: str) -> bool:
    """Return whether a parameter lacks a gradient on any worker, and warn of those by name."""
    trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    device = trained[0][1].device
    lacking = torch.tensor([float(p.grad is None) for _, p in trained], device=device)
    group.sum_(lacking)
    names = [name for (name, _), lacks in zip(trained, lacking.tolist(), strict=True) if lacks]
    if names:
        logger.warning(
            "%s.loss gives no gradient to %s; workers look for such parameters in each step, "
            "which takes time: set requires_grad=False where they are never used",
            task_name,
            ", ".join(names),
        )
    return bool(names)


def wrapper_of(module: nn.Module) -> DistributedDataParallel | None:
    """Return the DDP that the module is wrapped in, compiled or not; None without one."""
    inner = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    return inner if isinstance(inner, DistributedDataParallel) else None


def shards_of(module: nn.Module) -> list[FSDPModule]:
    """Return those of the module's layers that ``fully_shard`` has sharded over the workers."""
    # Its import takes 0.7 s in every worker. Where nobody has made it, nothing is sharded.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return []
    return [layer for layer in module.modules() if isinstance(layer, fsdp.FSDPModule)]


def is_split(value: Any) -> TypeGuard[DTensor]:
    """Tell whether a value is a tensor of which each worker holds a part."""
    tensor = sys.modules.get("torch.distributed.tensor")
    return tensor is not None and isinstance(value, tensor.DTensor)


def averages_gradients(module: nn.Module) -> bool:
    """Tell whether a module averages gradients over the workers itself, as a user's own may."""
    return wrapper_of(module) is not None or bool(shards_of(module))


def gradient_sync(module: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[Any]:
    """Average gradients over the workers in the last micro-batch of a step only."""
    wrapper = wrapper_of(module)
    if wrapper is not None and not is_last:
        return wrapper.no_sync()
    for layer in shards_of(module):
        layer.set_requires_gradient_sync(is_last, recurse=False)
    return contextlib.nullcontext()


@contextlib.contextmanager
def forward_only(module: nn.Module) -> Iterator[None]:
    """Let forward passes of a user's own wrapped or sharded module leave nothing behind.

    DDP would broadcast buffers at each pass, and workers may have unequal numbers of them. Layers
    that are sharded stay whole until a backward pass that does not come.
    """
    wrapper = wrapper_of(module)
    syncs = wrapper is not None and wrapper.require_forward_param_sync
    if wrapper is not None:
        wrapper.require_forward_param_sync = False
    try:
        yield
    finally:
        if wrapper is not None:
            wrapper.require_forward_param_sync = syncs
        reshard(module)


def reshard(module: nn.Module) -> None:
    """Let each worker hold its part of the module only."""
    for layer in shards_of(module):
        layer.reshard()
