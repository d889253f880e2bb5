"""BatchNorm's running statistics, which belong to the weights that they were taken with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def running_norms(module: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers that keep running statistics."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
    ]


@contextlib.contextmanager
def kept_statistics(module: nn.Module) -> Iterator[None]:
    """Give the module its running statistics back at the end, to the last bit."""
    buffers = [buffer for norm in running_norms(module) for buffer in norm.buffers()]
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, kept, strict=True):
            buffer.copy_(value)


def take_statistics(
    module: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[Any], object] | None = None,
    *,
    frozen: Sequence[nn.Module] = (),
) -> None:
    """Set running statistics to the mean over batches; dropout and the like stay off.

    Args:
        module: without running statistics it is left alone, and no batch is read.
        batches: what ``forward`` is given.
        forward: passes a batch through the module. By default ``module(batch)``, with ``**batch``
            for a dict and with the first element of a tuple or list.
        frozen: layers whose statistics no step moves; they stay.
    """
    norms = [norm for norm in running_norms(module) if norm not in frozen]
    if not norms:
        return
    modes = [(layer, layer.training) for layer in module.modules()]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
        if isinstance(norm, nn.SyncBatchNorm):  # would wait for the others, who take none
            vars(norm)["forward"] = partial(_BatchNorm.forward, norm)
    try:
        with torch.no_grad():
            for batch in batches:
                if forward is None:
                    _forward(module, batch)
                else:
                    forward(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            vars(norm).pop("forward", None)
        for layer, training in modes:
            layer.training = training


def _forward(module: nn.Module, batch: Any) -> None:
    if isinstance(batch, dict):
        module(**batch)
    else:
        module(batch[0] if isinstance(batch, (tuple, list)) else batch)
