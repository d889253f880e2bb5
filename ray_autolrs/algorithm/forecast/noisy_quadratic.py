"""A quadratic of many curvatures under noisy gradients: how it falls with the LRs that it gets.

Symbols
    γ_t   learning rate (LR) of step t, in units of the largest in question
    h_j   curvature, one of a fixed grid
    z_t   weights along h_j that the optimizer moves; x_t their average; y_t = (1-β)z_t + βx_t
          where gradients are taken: Schedule-Free. Without averaging all three are the same
    c_t   weight of the newest point in the average: t^r γ² / Σ t^r γ², γ the largest so far
    m     mean of z or x, from 1 at the start
    V     its (co)variances, from 0 at the start

    z_{t+1} = z_t - γ_t (h_j y_t + noise of variance h_j),    x_{t+1} = (1-c_t) x_t + c_t z_{t+1}

So the mean and the three covariances of (z, x) follow a linear recursion for each h_j, and the
loss is a weighted sum of m² and V: :mod:`ray_autolrs.algorithm.forecast.spectral` fits the weights.

Source: Zhang et al. 2019, "Which algorithmic choices matter at which batch sizes?", section 3,
without averaging and with a noise variance of h_j; with averaging, ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

CURVATURES = 24
"""Curvatures h_j, evenly spaced in log h."""

SLOWEST = 0.05
"""Smallest h_j times the run's steps, at an LR of 1."""

FASTEST = 2.0
"""Largest h_j at an LR of 1. Ours: so that an LR of 1 is near what Schedule-Free can bear."""

FASTEST_WITHOUT_AVERAGING = 0.5
"""The same where nothing holds the weights back."""


@dataclass(frozen=True, slots=True)
class Interpolation:
    """Schedule-Free's average, as the model needs it.

    Attributes:
        momentum: how near to the average gradients are taken (β).
        power: weight of a step in the average, as a power of its number (r).
    """

    momentum: float
    power: float


@dataclass(frozen=True, slots=True)
class Moments:
    """Where the quadratic stands, an entry for each curvature in every array.

    Attributes:
        z: mean of the weights.
        x: mean of their average.
        zz: variance of the weights.
        zx: covariance of the two.
        xx: variance of the average.
        steps: taken.
        largest: LR so far.
        weight: sum of the weights in the average.
    """

    z: Array
    x: Array
    zz: Array
    zx: Array
    xx: Array
    steps: int = 0
    largest: float = 0.0
    weight: float = 0.0

    @property
    def at_average(self) -> Array:
        """m² and V at x, one after the other: what a validation loss is made of."""
        return np.concatenate([self.x**2, self.xx])


@dataclass(frozen=True, slots=True)
class NoisyQuadratic:
    """The recursion.

    Attributes:
        lr_scale: LR that counts as 1.
        steps: of the whole run, which set the smallest curvature.
        averaging: None where there is none.
    """

    lr_scale: float
    steps: int
    averaging: Interpolation | None

    @property
    def curvatures(self) -> Array:
        """The h_j, in units of 1 / ``lr_scale``."""
        fastest = FASTEST_WITHOUT_AVERAGING if self.averaging is None else FASTEST
        return np.geomspace(min(SLOWEST / self.steps, fastest / 2), fastest, CURVATURES)

    def start(self) -> Moments:
        """Return the moments before the first step."""
        one, zero = np.ones(CURVATURES), np.zeros(CURVATURES)
        return Moments(one, one, zero, zero, zero)

    def walk(self, lrs: Array, start: Moments) -> tuple[Array, Moments]:
        """Take a step with each LR.

        Returns:
            What training losses are made of, a row of m² and V at y before each step, and the
            moments after the last step.
        """
        rows = np.empty((len(lrs), 2 * CURVATURES))
        curvatures = self.curvatures
        moments = start
        for place, lr in enumerate(lrs / self.lr_scale):
            if self.averaging is None:
                rows[place] = moments.at_average
                moments = _plain_step(moments, float(lr), curvatures)
            else:
                rows[place] = _at_gradient(moments, self.averaging.momentum)
                moments = _averaged_step(moments, float(lr), curvatures, self.averaging)
        return rows, moments


def _plain_step(now: Moments, lr: float, curvatures: Array) -> Moments:
    # The exponential, unlike 1 - γh, is right for small steps and stable for large ones.
    kept = np.exp(-lr * curvatures)
    z, zz = kept * now.z, kept**2 * now.zz + lr**2 * curvatures
    return replace(now, z=z, x=z, zz=zz, zx=zz, xx=zz, steps=now.steps + 1)


def _at_gradient(now: Moments, momentum: float) -> Array:
    at_z, at_x = 1 - momentum, momentum
    mean = at_z * now.z + at_x * now.x
    variance = at_z**2 * now.zz + 2 * at_z * at_x * now.zx + at_x**2 * now.xx
    return np.concatenate([mean**2, variance])


def _averaged_step(now: Moments, lr: float, curvatures: Array, averaging: Interpolation) -> Moments:
    from_x = lr * averaging.momentum * curvatures
    from_z = 1 - lr * (1 - averaging.momentum) * curvatures
    z = from_z * now.z - from_x * now.x
    zz = from_z**2 * now.zz - 2 * from_z * from_x * now.zx + from_x**2 * now.xx
    zz = zz + lr**2 * curvatures
    zx = from_z * now.zx - from_x * now.xx
    steps, largest = now.steps + 1, max(now.largest, lr)
    newest = float(steps) ** averaging.power * largest**2
    weight = now.weight + newest
    new = newest / weight if weight > 0 else 0.0
    old = 1 - new
    return Moments(
        z=z,
        x=old * now.x + new * z,
        zz=zz,
        zx=old * zx + new * zz,
        xx=old**2 * now.xx + 2 * old * new * zx + new**2 * zz,
        steps=steps,
        largest=largest,
        weight=weight,
    )
