"""torch's DistributedDataParallel around a replica's module: it averages the gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


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
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
        find_unused_parameters=find_unused,
    )


def wrapper_of(module: nn.Module) -> DistributedDataParallel | None:
    """Return the module's wrapper that averages gradients, compiled or not; None without one."""
    inner = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    return inner if isinstance(inner, DistributedDataParallel) else None


def gradient_sync(module: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[Any]:
    """Average gradients over the workers in the last micro-batch of a step only."""
    wrapper = wrapper_of(module)
    if wrapper is not None and not is_last:
        return wrapper.no_sync()
    return contextlib.nullcontext()


@contextlib.contextmanager
def forward_alone(module: nn.Module) -> Any:
    """Let forward passes of a wrapped module, without a gradient, not wait for the others.

    A wrapper that a user made broadcasts buffers at each pass, and workers may have unequal
    numbers of validation batches.
    """
    wrapper = wrapper_of(module)
    if wrapper is None:
        yield
        return
    syncs, wrapper.require_forward_param_sync = wrapper.require_forward_param_sync, False
    try:
        yield
    finally:
        wrapper.require_forward_param_sync = syncs
