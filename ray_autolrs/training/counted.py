"""Gradients over those micro-batches alone that have a loss."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from ray_autolrs.training.collectives import Group


def count_only(
    losses: Tensor, micro_batches: int, parameters: Iterable[nn.Parameter], group: Group
) -> None:
    """Turn gradients that are means over all micro-batches into means over those with a loss.

    Without a counted label the mean loss is 0 / 0, which is nan, and its gradient is 0. Where all
    micro-batches are counted, gradients are multiplied by 1, which changes no bit. Nothing waits
    for the device.

    Args:
        losses: of this worker's micro-batches of a step, shape (micro-batches,).
        micro_batches: of the global batch.
        parameters: whose gradients are changed in place.
        group: the workers that share the step.
    """
    counted = (~losses.isnan()).sum().to(losses.dtype)
    group.sum_(counted)
    factor = micro_batches / counted.clamp(min=1)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor.to(parameter.grad.dtype))
