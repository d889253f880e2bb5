"""The Gaussian process's posterior in closed form, given its parameters.

A run's log keeps the parameters of each fit, so that a report can draw what the search saw without
fitting again: neither BoTorch nor torch is needed. The search itself predicts with BoTorch
(:mod:`ray_autolrs.algorithm.search.gp_model`), whose symbols these are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_autolrs.algorithm.forecast.forecaster import LARGEST_LOSS, Array


@dataclass(frozen=True, slots=True)
class GPParameters:
    """What a fit decides; the kernel's scale is 1, that of standardised losses.

    Attributes:
        length_scale: of the Matérn-5/2 kernel, in units of x.
        noise: variance of an observation around the loss, in units of y².
        mean: of the prior, in units of y.
    """

    length_scale: float
    noise: float
    mean: float


def standardised(losses: Sequence[float | None]) -> tuple[Array, float, float]:
    """Return y, and the origin and unit that it is measured in: loss = origin + unit · y.

    A diverged LR counts as the worst forecast that was seen. A departure: the published code
    tells a loss of a million, beside which all others are equal.
    """
    worst = max((loss for loss in losses if loss is not None), default=0.0)
    told = [worst if loss is None else loss for loss in losses]
    clipped: Array = np.clip(np.array(told, dtype=np.float64), -LARGEST_LOSS, LARGEST_LOSS)
    if len(clipped) == 0:
        return clipped, 0.0, 1.0
    spread = float(clipped.std(ddof=1)) if len(clipped) > 1 else 0.0
    origin, unit = clipped.mean(), spread if spread > 0 else 1.0
    y: Array = (clipped - origin) / unit
    return y, float(origin), unit


def posterior_of(
    parameters: GPParameters, places: Sequence[float], y: Array, running: Sequence[float], at: Array
) -> tuple[Array, Array]:
    """Return μ and σ at ``at``, in units of y, as ``gp_model.posterior`` returned them.

    Args:
        parameters: of the fit.
        places: x of each observation.
        y: its standardised loss, in the same order.
        running: x of those that were asked and not told: believed at their posterior mean.
        at: shape (n,), the x to predict at.
    """
    known = np.array(places, dtype=np.float64)
    if len(running) > 0:
        believed = np.array(running, dtype=np.float64)
        means, _ = _predicted(parameters, known, y, believed)
        known, y = np.concatenate([known, believed]), np.concatenate([y, means])
    return _predicted(parameters, known, y, at)


def _predicted(parameters: GPParameters, known: Array, y: Array, at: Array) -> tuple[Array, Array]:
    if len(known) == 0:
        return np.full(len(at), parameters.mean), np.ones(len(at))
    covariance = _kernel(parameters, known, known) + parameters.noise * np.eye(len(known))
    cross = _kernel(parameters, known, at)
    solved = np.linalg.solve(covariance, np.column_stack([y - parameters.mean, cross]))
    mean: Array = parameters.mean + cross.T @ solved[:, 0]
    variance = 1.0 - np.einsum("ij,ij->j", cross, solved[:, 1:])
    std: Array = np.sqrt(np.maximum(variance, 0.0))
    return mean, std


def _kernel(parameters: GPParameters, a: Array, b: Array) -> Array:
    """Return the Matérn-5/2 covariances of two sets of places, shape (len(a), len(b))."""
    r = math.sqrt(5.0) * np.abs(a[:, None] - b[None, :]) / parameters.length_scale
    covariances: Array = (1.0 + r + r**2 / 3.0) * np.exp(-r)
    return covariances
