"""The loss of a run's remaining LRs, forecast from its history and its probes together.

Symbols
    η_i  LR of step i; η_max the scale of the LRs
    S    Σ η over the steps taken
    h_j  curvature, one of a fixed grid
    n_j  noise that SGD holds along h_j: n_j ← n_j·exp(−2·h_j·η) + h_j·η²
    N_g  Σ_j (h_j·η_max)^g·n_j: the noise under a spectrum that is a power g of the curvature
    p, S0_k   power, and scale in S, of one term of the fall
    a_pk, b_g, c, L∞   weights, none negative, found by least squares

The model, a functional scaling law of a noisy quadratic:

    loss = L∞ + Σ a_pk·(1 + S/S0_k)^(−p) + Σ b_g·N_g + c·η

A higher LR makes S grow faster, and holds more noise, which a lower LR later lets go. So one fit
reads any remaining schedule, where the loss of a short probe only shows which LR holds least noise.

It ranks LRs that differ by more than its error; on a simulated quadratic it finds the best of three
that are 4 apart in 12 to 20 of 20 seeds, as they end .003 to .010 apart (tests/algorithm).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from ray_autolrs.algorithm.forecast import Forecast
from ray_autolrs.config_rules import MIN_SERIES_POINTS

Array = np.ndarray[Any, np.dtype[np.float64]]

CURVATURES = 24
"""Curvatures h_j (RESEARCH.md, "Spectral forecaster"), evenly spaced in log h."""

FASTEST_CURVATURE = 0.5
"""Largest h_j·η_max (the same)."""

SLOWEST_CURVATURE = 0.005
"""Smallest h_j·η_max, over the steps seen. Ours: 0.05 over the run's steps (the same) where the
run is ten times what was seen."""

NOISE_POWERS = (-0.5, 0.0, 0.5, 1.0)
"""Powers g. Ours."""

FALL_POWERS = (0.25, 0.5, 1.0, 2.0)
"""Powers p. Ours."""

FALL_SCALES = 8
"""Scales S0_k, evenly spaced in log from η_max to η_max times ten times the steps seen. Ours."""

RIDGE = 1e-3
"""Penalty on the squares of the weights, with the columns scaled to length 1 (RESEARCH.md)."""

DIFFERENCE_WEIGHT = 4.0
"""Weight of what tells the probes of a group apart, where what they share has 1 (RESEARCH.md):
they see the same batches, so that most of the noise is in what they share."""

BINS = 60
"""Most means that a curve is reduced to. Ours."""

TRUSTED_POINTS = 24
"""Fewest means that a fit is trusted with. Ours."""

TRUSTED_RATIO = 4.0
"""LRs beyond those seen by more than this are not trusted. Ours."""


@dataclass(frozen=True, slots=True)
class LossCurve:
    """The losses of a piece of the applied history, or of one probe.

    Attributes:
        lrs: LR of each step.
        losses: training loss of each step, on its batch, before its update.
        first_step: place of the first step in the run, from 0.
        group: None for applied history. A number for a probe, which starts where the applied
            history stood before ``first_step``; probes of a number share their batches.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    first_step: int
    group: int | None


@dataclass(frozen=True, slots=True)
class SpectralModel:
    """A fitted model, which stands at the end of the applied history.

    Attributes:
        loss: modelled loss at the end of the applied history.
        noise: standard deviation of the residuals, in the loss's unit, for one mean of a bin.
        points: means that were fitted.
        lr_range: smallest mean LR of a curve, and largest LR of a step.
    """

    loss: float
    noise: float
    points: int
    lr_range: tuple[float, float]
    _basis: _Basis
    _state: _State
    _floor: float
    _weights: Array
    _covariance: Array

    def predict(self, lrs: Sequence[float]) -> Forecast:
        """Return the loss after the applied history goes on with these LRs.

        The standard deviation is that of the fit's weights (of those that are not 0), with the
        residuals taken as independent: it leaves out that the model may be wrong.

        Not trusted are a fit to fewer than ``TRUSTED_POINTS`` means; a change, from the end of the
        applied history, that is smaller than its own error or than the residuals' standard
        deviation; and LRs of which the largest is above, or whose mean is below, those seen by
        more than ``TRUSTED_RATIO``. (A decay may end at 0: the mean counts.)

        Raises:
            ValueError: there is no LR, or one is negative or not finite.
        """
        rates = _checked_lrs(lrs)
        end = self._basis.walk(rates, self._state)[-1]
        features = self._basis.features(end)[0]
        loss = float(features @ self._weights) + self._floor
        std = math.sqrt(max(0.0, float(features @ self._covariance @ features)))
        lowest, highest = self.lr_range
        seen = rates.max() <= TRUSTED_RATIO * highest and rates.mean() >= lowest / TRUSTED_RATIO
        clear = abs(loss - self.loss) >= max(std, self.noise)
        return Forecast(loss, std, bool(seen and clear and self.points >= TRUSTED_POINTS))


def fit_spectral(curves: Sequence[LossCurve], lr_scale: float | None = None) -> SpectralModel:
    """Fit the model to the applied history and all probes at once.

    Args:
        curves: pieces of the applied history, which join from step 0, and probes; in any order.
        lr_scale: η_max, about the largest LR in question; a unit, which the LRs may exceed. None
            takes the largest LR of the curves (1 where all are 0).

    Raises:
        ValueError: the curves are too short, not finite, or do not join; or ``lr_scale`` is not a
            positive number.
    """
    if lr_scale is not None and not (math.isfinite(lr_scale) and lr_scale > 0):
        raise ValueError(f"lr_scale must be positive and finite, got {lr_scale!r}")
    for curve in curves:
        _check_curve(curve)
    seen = sum(len(curve.lrs) for curve in curves)
    if seen < MIN_SERIES_POINTS:
        raise ValueError(f"the curves have {seen} steps; a fit needs {MIN_SERIES_POINTS}")
    if lr_scale is None:
        lr_scale = max(max(curve.lrs) for curve in curves) or 1.0
    history = _joined_history(curves)
    basis = _Basis(lr_scale, max(curve.first_step + len(curve.lrs) for curve in curves))
    states = basis.walk(np.array(history.lrs), basis.start())
    groups: dict[int | None, list[_Bins]] = defaultdict(list)
    if history.lrs:
        groups[None].append(_bins(history, basis, states[0], len(history.lrs)))
    probes = [curve for curve in curves if curve.group is not None]
    for curve in probes:
        if curve.first_step > len(history.lrs):
            raise ValueError(
                f"a probe starts at step {curve.first_step}, beyond the applied history's "
                f"{len(history.lrs)} steps"
            )
        longest = max(len(other.lrs) for other in probes if other.group == curve.group)
        groups[curve.group].append(_bins(curve, basis, states[curve.first_step], longest))
    return _solve(list(groups.values()), basis, states[-1], _lr_range(curves))


_State = Array
"""S, the LR of the step before (0 at the start) and the n_j, all in units of η_max."""


@dataclass(frozen=True, slots=True)
class _Basis:
    """The model's terms, in units in which η_max is 1."""

    lr_scale: float
    steps: int

    @property
    def curvatures(self) -> Array:
        slowest = min(SLOWEST_CURVATURE / self.steps, FASTEST_CURVATURE / 2)
        return np.geomspace(slowest, FASTEST_CURVATURE, CURVATURES)

    def start(self) -> _State:
        return np.zeros(2 + CURVATURES)

    def walk(self, lrs: Array, state: _State) -> Array:
        """Return the states before each step, and the one after the last."""
        rates = lrs / self.lr_scale
        keep = np.exp(-2.0 * np.outer(rates, self.curvatures))
        gain = np.outer(rates**2, self.curvatures)
        states = np.empty((len(rates) + 1, len(state)))
        states[0] = state
        states[1:, 0] = state[0] + np.cumsum(rates)
        states[1:, 1] = rates
        noise = state[2:]
        for step in range(len(rates)):
            noise = noise * keep[step] + gain[step]
            states[step + 1, 2:] = noise
        return states

    def features(self, states: Array) -> Array:
        """Return a row of terms for each state: L∞'s first, then a_pk's, b_g's and c's."""
        states = np.atleast_2d(states)
        scales = np.geomspace(1.0, 10.0 * self.steps, FALL_SCALES)
        base = 1.0 + states[:, :1] / scales
        falls = [base**-power for power in FALL_POWERS]
        spectra = np.stack([self.curvatures**power for power in NOISE_POWERS], axis=1)
        ones = np.ones((len(states), 1))
        return np.concatenate([ones, *falls, states[:, 2:] @ spectra, states[:, 1:2]], axis=1)


@dataclass(frozen=True, slots=True)
class _Bins:
    """Means over a curve's bins: the features, the losses, and the steps in each."""

    features: Array
    losses: Array
    counts: Array


def _bins(curve: LossCurve, basis: _Basis, state: _State, longest: int) -> _Bins:
    """Reduce a curve to bins of even width, the same for all curves of its group."""
    width = math.ceil(longest / BINS)
    starts = np.arange(0, len(curve.lrs), width)
    counts = np.diff(np.append(starts, len(curve.lrs))).astype(np.float64)
    features = basis.features(basis.walk(np.array(curve.lrs), state)[:-1])
    return _Bins(
        np.add.reduceat(features, starts, axis=0) / counts[:, None],
        np.add.reduceat(np.array(curve.losses), starts) / counts,
        counts,
    )


def _solve(
    groups: list[list[_Bins]], basis: _Basis, state: _State, lr_range: tuple[float, float]
) -> SpectralModel:
    """Find the weights, with their covariance."""
    floor = min(0.0, *(float(bins.losses.min()) for group in groups for bins in group))
    rows = [_weighted_rows(group, floor) for group in groups]
    design = np.concatenate([features for features, _ in rows])
    target = np.concatenate([losses for _, losses in rows])
    scale = np.linalg.norm(design, axis=0)
    # Only noise terms of LRs that are all 0 are 0 throughout; their weight is then 0.
    scale[scale == 0] = 1.0
    penalty = math.sqrt(RIDGE) * np.eye(design.shape[1])
    penalty[0] = 0.0  # L∞ is free
    scaled = np.concatenate([design / scale, penalty])
    weights, _ = nnls(scaled, np.concatenate([target, np.zeros(len(penalty))]))
    used = weights > 0
    residuals = target - design @ (weights / scale)
    variance = float(residuals @ residuals) / max(1, len(target) - int(used.sum()))
    information = scaled[:, used].T @ scaled[:, used]
    covariance = np.zeros(penalty.shape)
    covariance[np.ix_(used, used)] = variance * np.linalg.pinv(information)
    weights /= scale
    counts = np.concatenate([bins.counts for group in groups for bins in group])
    return SpectralModel(
        loss=float(basis.features(state)[0] @ weights) + floor,
        noise=math.sqrt(variance / float(counts.mean())),
        points=len(target),
        lr_range=lr_range,
        _basis=basis,
        _state=state,
        _floor=floor,
        _weights=weights,
        _covariance=covariance / np.outer(scale, scale),
    )


def _weighted_rows(group: list[_Bins], floor: float) -> tuple[Array, Array]:
    """Return a group's rows, with what its curves share and what tells them apart weighted.

    A row counts by the root of its steps, as the error of a mean asks for.
    """
    most = max(len(bins.losses) for bins in group)
    rows = []
    for place in range(most):
        present = [bins for bins in group if place < len(bins.losses)]
        block = np.array([[*b.features[place], b.losses[place] - floor] for b in present])
        counts = np.sqrt([[b.counts[place]] for b in present])
        shared = block.mean(axis=0)
        rows.append((shared + DIFFERENCE_WEIGHT * (block - shared)) * counts)
    stacked = np.concatenate(rows)
    return stacked[:, :-1], stacked[:, -1]


def _joined_history(curves: Sequence[LossCurve]) -> LossCurve:
    pieces = sorted((c for c in curves if c.group is None), key=lambda piece: piece.first_step)
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
    return LossCurve(tuple(lrs), tuple(losses), 0, None)


def _lr_range(curves: Sequence[LossCurve]) -> tuple[float, float]:
    means = [float(np.mean(curve.lrs)) for curve in curves]
    return min(means), max(max(curve.lrs) for curve in curves)


def _check_curve(curve: LossCurve) -> None:
    if not curve.lrs or len(curve.lrs) != len(curve.losses):
        raise ValueError(
            f"a curve needs one loss for each LR, and at least one: it has {len(curve.lrs)} LRs "
            f"and {len(curve.losses)} losses"
        )
    if curve.first_step < 0:
        raise ValueError(f"a curve's first_step must be 0 or more, got {curve.first_step}")
    _checked_lrs(curve.lrs)
    if not np.isfinite(curve.losses).all():
        raise ValueError("a curve's losses are not finite: leave diverged probes out")


def _checked_lrs(lrs: Sequence[float]) -> Array:
    rates = np.asarray(lrs, dtype=np.float64)
    if len(rates) == 0 or not np.isfinite(rates).all() or (rates < 0).any():
        raise ValueError("the LRs must be at least one, finite and not negative")
    return rates
