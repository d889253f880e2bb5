"""The loss of a run's remaining LRs, forecast from its history and its probes together.

Symbols
    m_j², V_j   squared mean and variance along curvature h_j, before a step
                (:mod:`ray_autolrs.algorithm.forecast.noisy_quadratic`)
    s, q        powers of the curvature: how much the start and the noise weigh along h_j
    L∞, A, B    weights, none negative, found by least squares for each (s, q)
    w_sq        weight of (s, q): its likelihood to the power 1 / TEMPERATURE

The model:

    loss = L∞ + A Σ_j h_j^s m_j² + B Σ_j h_j^q V_j

A higher LR lets m fall faster, and holds more noise, which a lower LR or an average lets go. So
one fit reads any remaining schedule, where the loss of a short probe only shows which LR holds
least noise. Predictions are means over (s, q) with weights w_sq; the error is their spread and
that of the weights that were fitted.

How far it can be trusted is in bench/NOTES.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_autolrs.algorithm.forecast.forecaster import MIN_SERIES_POINTS, Forecast
from ray_autolrs.algorithm.forecast.loss_curves import (
    LossCurve,
    bin_edges,
    binned,
    check_curve,
    checked_lrs,
    joined_history,
)
from ray_autolrs.algorithm.forecast.noisy_quadratic import (
    Array,
    Interpolation,
    Moments,
    NoisyQuadratic,
)

START_POWERS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5)
"""Powers s. Ours."""

NOISE_POWERS = (-1.0, -0.5, 0.0, 0.5)
"""Powers q. Ours."""

TEMPERATURE = 4.0
"""Neighbouring bins err alike, since the model is not the truth: four count as one. Ours."""

HISTORY_BINS = 60
PROBE_BINS = 12
"""Most means that a curve is reduced to, the width growing with the step. Ours."""

DIFFERENCE_WEIGHT = 4.0
"""Weight of what tells probes from one state apart, where what they share has 1. Ours (measured:
with 1 the forecast wanted another LR beside some that were good)."""

TRUSTED_POINTS = 24
"""Fewest means that a fit is trusted with. Ours."""

TRUSTED_RATIO = 4.0
"""LRs beyond those seen by more than this are not trusted. Ours."""

HEADROOM = 3.0
"""The LR that counts as 1, over the largest of the history: what may be asked about. Ours."""


@dataclass(frozen=True, slots=True)
class _Fit:
    """The fit for one (s, q).

    Attributes:
        basis: shape (3, features): what L∞, A and B weigh.
        weights: those three.
        covariance: theirs, of those that are not 0.
        misfit: root of the sum of the squared residuals.
    """

    basis: Array
    weights: Array
    covariance: Array
    misfit: float


@dataclass(frozen=True, slots=True)
class SpectralModel:
    """A fitted model, which stands at the end of the applied history.

    Attributes:
        points: means that were fitted.
        lr_range: smallest mean LR of a curve, and largest LR of a step.
    """

    points: int
    lr_range: tuple[float, float]
    _quadratic: NoisyQuadratic
    _end: Moments
    _fits: tuple[_Fit, ...]
    _likelihoods: Array

    def gains(
        self, options: Sequence[Sequence[float]], instead_of: Sequence[float]
    ) -> list[Forecast]:
        """Return by how much lower the loss ends with each list of LRs than with another one.

        The error of a difference is smaller than that of a loss: the powers share what they do not
        know of the loss itself. Not trusted are a fit to fewer than ``TRUSTED_POINTS`` means, and
        LRs of which the largest is above, or whose mean is below, those seen by more than
        ``TRUSTED_RATIO``. (A decay may end at 0: the mean counts.)

        Raises:
            ValueError: there is no LR, or one is negative or not finite.
        """
        others = checked_lrs(instead_of)
        reference, is_trusted = self._features(others), self._is_trusted(others)
        forecasts = []
        for lrs in options:
            rates = checked_lrs(lrs)
            loss, std = self._mean(reference - self._features(rates))
            forecasts.append(Forecast(loss, std, is_trusted and self._is_trusted(rates)))
        return forecasts

    def _features(self, rates: Array) -> Array:
        _, end = self._quadratic.walk(rates, self._end)
        return np.concatenate([[1.0], end.at_average])

    def _mean(self, features: Array) -> tuple[float, float]:
        terms = [fit.basis @ features for fit in self._fits]
        values = np.array([fit.weights @ x for fit, x in zip(self._fits, terms, strict=True)])
        errors = np.array(
            [x @ fit.covariance @ x for fit, x in zip(self._fits, terms, strict=True)]
        )
        mean = float(self._likelihoods @ values)
        return mean, math.sqrt(float(self._likelihoods @ ((values - mean) ** 2 + errors)))

    def _is_trusted(self, rates: Array) -> bool:
        lowest, highest = self.lr_range
        seen = rates.max() <= TRUSTED_RATIO * highest and rates.mean() >= lowest / TRUSTED_RATIO
        return bool(seen and self.points >= TRUSTED_POINTS)


def fit_spectral(
    curves: Sequence[LossCurve],
    averaging: Interpolation | None = None,
    total_steps: int | None = None,
) -> SpectralModel:
    """Fit the model to the applied history and all probes at once.

    Args:
        curves: pieces of the applied history, which join from step 0, and probes; in any order.
        averaging: of the weights that the losses to predict are taken at.
        total_steps: of the whole run. None is ten times those seen.

    Raises:
        ValueError: the curves are too short, not finite, or do not join.
    """
    for curve in curves:
        check_curve(curve)
    seen = sum(len(curve.lrs) for curve in curves)
    if seen < MIN_SERIES_POINTS:
        raise ValueError(f"the curves have {seen} steps; a fit needs {MIN_SERIES_POINTS}")
    history = joined_history(curves)
    probes = [curve for curve in curves if curve.is_probe]
    last = max(curve.first_step + len(curve.lrs) for curve in curves)
    scale = max(HEADROOM * max(history.lrs, default=0.0), *(max(c.lrs) for c in curves))
    # LRs that are all 0 have no scale.
    quadratic = NoisyQuadratic(scale or 1.0, total_steps or 10 * last, averaging)
    features, end, starts = _walk_history(quadratic, history, {c.first_step for c in probes})
    rows = []
    if history.lrs:
        rows.append(binned(features, history.losses, bin_edges(len(history.losses), HISTORY_BINS)))
    for first_step, start in starts.items():
        group = [probe for probe in probes if probe.first_step == first_step]
        if group:
            rows.append(_probe_rows(quadratic, group, start))
    means = np.array([float(np.mean(curve.lrs)) for curve in curves])
    return _solve(
        np.concatenate(rows),
        quadratic,
        end,
        (float(means.min()), max(max(curve.lrs) for curve in curves)),
    )


def _walk_history(
    quadratic: NoisyQuadratic, history: LossCurve, stops: set[int]
) -> tuple[Array, Moments, dict[int, Moments]]:
    """Return the features of the history's steps, its end, and the moments at ``stops``."""
    moments = {}
    now, parts, done = quadratic.start(), [], 0
    for stop in sorted({*stops, len(history.lrs)}):
        if stop > len(history.lrs):
            raise ValueError(
                f"a probe starts at step {stop}, beyond the applied history's "
                f"{len(history.lrs)} steps"
            )
        part, now = quadratic.walk(np.array(history.lrs[done:stop]), now)
        parts.append(part)
        moments[stop], done = now, stop
    return np.concatenate(parts), now, moments


def _probe_rows(quadratic: NoisyQuadratic, group: Sequence[LossCurve], start: Moments) -> Array:
    """Return the rows of probes from one state, what tells them apart weighted.

    They see the same batches, so that most of their noise is in what they share.
    """
    edges = bin_edges(max(len(probe.losses) for probe in group), PROBE_BINS)
    curves = []
    for probe in group:
        features, _ = quadratic.walk(np.array(probe.lrs), start)
        curves.append(binned(features, probe.losses, edges))
    rows = []
    for place in range(len(edges) - 1):
        block = np.array([curve[place] for curve in curves if place < len(curve)])
        shared = block[:, 1:].mean(axis=0)
        block[:, 1:] = shared + DIFFERENCE_WEIGHT * (block[:, 1:] - shared)
        rows.append(block)
    return np.concatenate(rows)


def _solve(
    rows: Array, quadratic: NoisyQuadratic, end: Moments, lr_range: tuple[float, float]
) -> SpectralModel:
    """Fit each (s, q), and find how likely it is."""
    floor = min(0.0, float(rows[:, -1].min()))
    fits = tuple(
        _fit(rows, quadratic.curvatures**start_power, quadratic.curvatures**noise_power, floor)
        for start_power in START_POWERS
        for noise_power in NOISE_POWERS
    )
    # The likelihood, with the variance estimated; what fits exactly does not end at 0.
    exact = 1e-9 * max(1.0, float(np.abs(rows[:, -1]).max()))
    misfits = np.array([max(fit.misfit, exact) for fit in fits])
    logs = -len(rows) / TEMPERATURE * np.log(misfits)
    likelihoods = np.exp(logs - logs.max())
    return SpectralModel(
        points=len(rows),
        lr_range=lr_range,
        _quadratic=quadratic,
        _end=end,
        _fits=fits,
        _likelihoods=likelihoods / likelihoods.sum(),
    )


def _fit(rows: Array, starts: Array, noises: Array, floor: float) -> _Fit:
    """Find L∞, A and B for the curvatures' weights at the start and in the noise.

    A row counts by the root of its steps, as the error of a mean asks for.
    """
    from scipy.optimize import nnls  # loading it takes half as long as torch

    basis = np.zeros((3, rows.shape[1] - 2))
    basis[0, 0] = 1.0
    basis[1, 1 : 1 + len(starts)] = starts
    basis[2, 1 + len(starts) :] = noises
    errors = np.sqrt(rows[:, 0])
    design = rows[:, 1:-1] @ basis.T * errors[:, None]
    target = (rows[:, -1] - floor * rows[:, 1]) * errors
    lengths = np.linalg.norm(design, axis=0)
    # Only the noise of LRs that are all 0 is 0 throughout; its weight is then 0.
    lengths[lengths == 0] = 1.0
    found, misfit = nnls(design / lengths, target)
    weights = found / lengths
    used = weights > 0
    variance = TEMPERATURE * misfit**2 / max(1, len(rows) - int(used.sum()))
    covariance = np.zeros((3, 3))
    covariance[np.ix_(used, used)] = variance * np.linalg.pinv(design[:, used].T @ design[:, used])
    return _Fit(basis, weights, covariance, float(misfit))
