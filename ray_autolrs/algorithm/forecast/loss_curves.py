"""Curves of training losses, with the LR of each step: what a forecast of the whole run reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_autolrs.algorithm.forecast.noisy_quadratic import Array


@dataclass(frozen=True, slots=True)
class LossCurve:
    """The losses of a piece of the applied history, or of one probe.

    Attributes:
        lrs: LR of each step.
        losses: training loss of each step, on its batch, before its update.
        first_step: place of the first step in the run, from 0. A probe starts where the applied
            history stood before it.
        is_probe: whether it is a probe, rather than history.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    first_step: int
    is_probe: bool = False


def joined_history(curves: Sequence[LossCurve]) -> LossCurve:
    """Return the applied history as one curve; it may be empty.

    Raises:
        ValueError: its pieces do not join from step 0.
    """
    pieces = sorted((c for c in curves if not c.is_probe), key=lambda piece: piece.first_step)
    lrs: list[float] = []
    losses: list[float] = []
    for piece in pieces:
        if piece.first_step != len(lrs):
            raise ValueError(
                f"the applied history must join from step 0: a piece starts at step "
                f"{piece.first_step}, where {len(lrs)} was expected"
            )
        lrs += piece.lrs
        losses += piece.losses
    return LossCurve(tuple(lrs), tuple(losses), 0)


def bin_edges(steps: int, most: int) -> Array:
    """Return the ends of at most ``most`` bins, even in the root of the step: losses fall first."""
    return np.unique(np.round(np.linspace(0, math.sqrt(steps), most + 1) ** 2))


def binned(features: Array, losses: Sequence[float], edges: Array) -> Array:
    """Reduce a curve to means over bins.

    Returns:
        A row for each bin: its steps, a 1, the features' means, the losses' mean.
    """
    starts = edges[edges < len(losses)].astype(int)
    counts = np.diff(np.append(starts, len(losses)))[:, None].astype(np.float64)
    table = np.concatenate([features, np.array(losses)[:, None]], axis=1)
    means = np.add.reduceat(table, starts, axis=0) / counts
    return np.concatenate([counts, np.ones_like(counts), means], axis=1)


def check_curve(curve: LossCurve) -> None:
    """Refuse a curve that cannot be fitted.

    Raises:
        ValueError: it is empty, its LRs and losses are not as many, or a number is refused.
    """
    if not curve.lrs or len(curve.lrs) != len(curve.losses):
        raise ValueError(
            f"a curve needs one loss for each LR, and at least one: it has {len(curve.lrs)} LRs "
            f"and {len(curve.losses)} losses"
        )
    if curve.first_step < 0:
        raise ValueError(f"a curve's first_step must be 0 or more, got {curve.first_step}")
    checked_lrs(curve.lrs)
    if not np.isfinite(curve.losses).all():
        raise ValueError("a curve's losses are not finite: leave diverged probes out")


def checked_lrs(lrs: Sequence[float]) -> Array:
    """Return LRs as an array.

    Raises:
        ValueError: there is none, or one is negative or not finite.
    """
    rates = np.asarray(lrs, dtype=np.float64)
    if len(rates) == 0 or not np.isfinite(rates).all() or (rates < 0).any():
        raise ValueError("the LRs must be at least one, finite and not negative")
    return rates
