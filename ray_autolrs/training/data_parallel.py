"""torch's DistributedDataParallel around a replica's module: it averages the gradients."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def data_parallel(
    module: nn.Module, device: torch.device, *, find_unused: bool = False
) -> DistributedDataParallel:
    """Return the module that workers call in a step which they take together.

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
        module,
        device_ids=[device.index] if device.type == "cuda" else None,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
        find_unused_parameters=find_unused,
    )


def gradient_sync(module: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[Any]:
    """Average gradients over the workers in the last micro-batch of a step only."""
    if isinstance(module, DistributedDataParallel) and not is_last:
        return module.no_sync()
    return contextlib.nullcontext()
