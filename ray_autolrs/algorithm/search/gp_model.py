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
from typing import NamedTuple

import numpy as np
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.kernels import MaternKernel
from gpytorch.mlls import ExactMarginalLogLikelihood

from ray_autolrs.algorithm.forecast.forecaster import Array
from ray_autolrs.algorithm.search.gp_posterior import GPParameters, standardised

logger = logging.getLogger(__name__)


class Posterior(NamedTuple):
    """What is known of the losses.

    Attributes:
        mean: μ, in units of y.
        std: σ, likewise.
        parameters: of the fit that they come from.
    """

    mean: Array
    std: Array
    parameters: GPParameters


def posterior(
    told: Sequence[float], losses: Sequence[float | None], running: Sequence[float], at: Array
) -> Posterior:
    """Return μ and σ, and the parameters of the fit.

    Places that were asked and not told yet count as observed at their posterior mean (the kriging
    believer), so that a batch spreads out.

    Args:
        told: x of each observation.
        losses: its forecast loss, in the same order; None for one that diverged.
        running: x of those that were asked and not told; not empty if ``told`` is.
        at: shape (n,), the x to predict at.

    Returns:
        Among others two arrays of shape (n,), in units of y.
    """
    places, outcomes = np.array(told, dtype=np.float64), standardised(losses)[0]
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
    return Posterior(*_predict(model, at), _parameters(model))


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


def _parameters(model: SingleTaskGP) -> GPParameters:
    kernel = model.covar_module
    assert isinstance(kernel, MaternKernel), kernel
    return GPParameters(
        length_scale=float(kernel.lengthscale.item()),
        noise=float(model.likelihood.noise.item()),
        mean=float(model.mean_module.constant.item()),
    )
