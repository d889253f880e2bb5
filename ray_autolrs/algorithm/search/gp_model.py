"""The Gaussian process over learning rates, as BoTorch fits it.

Symbols
    η       learning rate (LR)
    x       log η scaled to [0, 1] over the search interval
    y       forecast loss, standardised over the stage's observations
    μ, σ    posterior mean and standard deviation of y at x

The kernel is Matérn-5/2 over x. One noise level is inferred from all forecasts, as the published
code does: what a forecast says of its own error is not used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.mlls import ExactMarginalLogLikelihood

from ray_autolrs.algorithm.forecast.forecaster import LARGEST_LOSS, Array

logger = logging.getLogger(__name__)


def posterior(
    told: Sequence[float], losses: Sequence[float | None], running: Sequence[float], at: Array
) -> tuple[Array, Array]:
    """Return μ and σ.

    Places that were asked and not told yet count as observed at their posterior mean (the kriging
    believer), so that a batch spreads out.

    Args:
        told: x of each observation.
        losses: its forecast loss, in the same order; None for one that diverged.
        running: x of those that were asked and not told; not empty if ``told`` is.
        at: shape (n,), the x to predict at.

    Returns:
        Two arrays of shape (n,), in units of y.
    """
    places, outcomes = np.array(told, dtype=np.float64), _standardised(losses)
    model = _fit(places, outcomes) if len(places) > 0 else None
    if len(running) > 0:
        believed = np.array(running)
        means = np.zeros(len(believed)) if model is None else _predict(model, believed)[0]
        places = np.concatenate([places, believed])
        outcomes = np.concatenate([outcomes, means])
        parameters = None if model is None else model.state_dict()
        model = _model(places, outcomes)
        if parameters is not None:
            model.load_state_dict(parameters)
    assert model is not None, "nothing was asked yet"
    return _predict(model, at)


def _standardised(losses: Sequence[float | None]) -> Array:
    """Return y. A diverged LR counts as the worst forecast that was seen.

    A departure: the published code tells a loss of a million, beside which all others are equal.
    """
    worst = max((loss for loss in losses if loss is not None), default=0.0)
    told = [worst if loss is None else loss for loss in losses]
    clipped: Array = np.clip(told, -LARGEST_LOSS, LARGEST_LOSS)
    if len(clipped) == 0:
        return clipped
    spread = clipped.std(ddof=1) if len(clipped) > 1 else 0.0
    standardised: Array = (clipped - clipped.mean()) / (spread if spread > 0 else 1.0)
    return standardised


def _model(places: Array, outcomes: Array) -> SingleTaskGP:
    return SingleTaskGP(
        torch.from_numpy(places).unsqueeze(-1),
        torch.from_numpy(outcomes).unsqueeze(-1),
        outcome_transform=None,  # The outcomes are standardised here.
        covar_module=get_covar_module_with_dim_scaled_prior(ard_num_dims=1, use_rbf_kernel=False),
    )


def _fit(places: Array, outcomes: Array) -> SingleTaskGP:
    """Return a model whose length scale and noise are fitted, given two different outcomes.

    Equal outcomes tell nothing about the length scale: a fit takes the longest, and the search
    then tries neighbours at the interval's ends. They are common: one LR that did not diverge
    among others that did.
    """
    model = _model(places, outcomes)
    if np.ptp(outcomes) > 0:
        # A fit that fails draws new starting points: not from the trainer's generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            except ModelFittingError as error:
                logger.warning("the Gaussian process keeps its prior parameters: %s", error)
                model = _model(places, outcomes)
    return model


def _predict(model: SingleTaskGP, at: Array) -> tuple[Array, Array]:
    model.eval()
    with torch.no_grad():
        predicted = model.posterior(torch.from_numpy(at).unsqueeze(-1))
    mean: Array = predicted.mean.squeeze(-1).numpy()
    std: Array = predicted.variance.squeeze(-1).clamp_min(0.0).sqrt().numpy()
    return mean, std
