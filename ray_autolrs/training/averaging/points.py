"""The three points of Schedule-Free averaging, of which two are held at a time.

Symbols
    z   weights that the optimizer inside moves
    x   average of z
    y   point where gradients are taken, between them: y = x + (1 - β) (z - x)

In training the parameters hold y and a buffer holds z. While the optimizer inside steps, the
parameters hold z. Either they hold z's memory then, and x lies in their own; or, for optimizers
that keep where the parameters were and for sharded ones, the buffer holds x, and weights are
copied to and fro: many at a time by torch's ``foreach`` operations, with a copy of no more than
``CHUNK_BYTES`` of them meanwhile. Both give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

CHUNK_BYTES = 2**24
"""Ours: large enough that a GPU is busy, small beside a model that fills it."""


def leave_points(parameters: Sequence[Tensor], buffers: Sequence[Tensor], beta: float) -> None:
    """Turn (parameter, buffer) from (y, z) into (z, x), with x = y + (1 - 1/β) (z - y)."""
    for points, weights in _chunks(parameters, buffers):
        averages = torch._foreach_lerp(points, weights, 1 - 1 / beta)
        torch._foreach_copy_(points, weights)
        torch._foreach_copy_(weights, averages)


def return_to_points(
    parameters: Sequence[Tensor], buffers: Sequence[Tensor], beta: float, newest_weight: float
) -> None:
    """Take z into x, and turn (parameter, buffer) from (z, x) into (y, z)."""
    for weights, averages in _chunks(parameters, buffers):
        torch._foreach_lerp_(averages, weights, newest_weight)
        points = torch._foreach_lerp(averages, weights, 1 - beta)
        torch._foreach_copy_(averages, weights)
        torch._foreach_copy_(weights, points)


def exchange_memory(parameters: list[Tensor], buffers: list[Tensor], beta: float) -> list[Tensor]:
    """Let parameters that hold y have the memory of their buffers, which hold z.

    Returns:
        x, in the parameters' own memory.
    """
    averages = [parameter.detach() for parameter in parameters]
    if averages:
        torch._foreach_lerp_(averages, buffers, 1 - 1 / beta)
    for parameter, buffer in zip(parameters, buffers, strict=True):
        parameter.data = buffer
    return averages


def give_back_memory(
    parameters: list[Tensor],
    buffers: list[Tensor],
    averages: list[Tensor],
    beta: float,
    newest_weight: float,
) -> None:
    """Take z into x, and give parameters their own memory back, with y in it.

    Args:
        parameters: at least one.
        buffers: hold z, in the memory that the parameters have.
        averages: what :func:`exchange_memory` returned.
        beta: the momentum.
        newest_weight: of z in x.
    """
    torch._foreach_lerp_(averages, buffers, newest_weight)
    torch._foreach_lerp_(averages, buffers, 1 - beta)
    for parameter, average in zip(parameters, averages, strict=True):
        parameter.data = average


def _chunks(
    parameters: Iterable[Tensor], buffers: Iterable[Tensor]
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    left: list[Tensor] = []
    right: list[Tensor] = []
    held = 0
    for parameter, buffer in zip(parameters, buffers, strict=True):
        left.append(local(parameter))
        right.append(local(buffer))
        held += left[-1].nbytes
        if held >= CHUNK_BYTES:
            yield left, right
            left, right, held = [], [], 0
    if left:
        yield left, right


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, and others as they are."""
    to_local = getattr(tensor, "to_local", None)  # a DTensor's
    local: Tensor = tensor.detach() if to_local is None else to_local()
    return local
