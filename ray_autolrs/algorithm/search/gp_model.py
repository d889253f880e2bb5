"""The search for a stage's learning rate: a Gaussian process and a confidence bound.

Symbols
    η       learning rate (LR)
    x       log η scaled to [0, 1] over the search interval
    y       forecast loss, standardised over the stage's observations
    μ, σ    posterior mean and standard deviation of y at x
    κ       exploration weight, in standard deviations

We minimise. The next LR is argmin μ(x) − κσ(x) over a fixed grid of x, so that the search is
deterministic. At the paper's κ = 1000 it fills the interval.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from botorch.exceptions.errors import ModelFittingError
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from gpytorch.mlls import ExactMarginalLogLikelihood

from ray_autolrs.algorithm.forecast.exponential import LARGEST_LOSS
from ray_autolrs.config_rules import ChooseBy

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, np.dtype[np.float64]]


class LRSearch(Protocol):
    """Proposes LRs and learns from what they promise. It does no input or output."""

    @abstractmethod
    def ask(self, count: int = 1) -> list[float]:
        """Return ``count`` LRs to try, none of them asked or told before.

        Raises:
            ValueError: there are not so many LRs left.
        """

    @abstractmethod
    def tell(self, lr: float, loss: float | None, variance: float = 0.0) -> None:
        """Take in the forecast loss of an LR and its variance, or None for a diverged probe.

        A loss that is not finite counts as diverged.
        """

    @abstractmethod
    def best(self) -> float:
        """Return the LR to apply, which is none that diverged.

        Raises:
            ValueError: no LR was told that did not diverge.
        """


@dataclass(frozen=True, slots=True)
class _Told:
    lr: float
    loss: float | None


class GPSearch:
    """The paper's search: Matérn-5/2 over log LR, and a lower confidence bound.

    Args:
        lr_min: lower end of the interval.
        lr_max: upper end of the interval.
        seed: draws the first LR; any number of integers.
        kappa: exploration weight (κ).
        grid_points: LRs that the bound is minimised over, evenly spaced in log LR.
        choose_by: rule of :meth:`best`; see ``AutoLRSConfig.choose_by``.

    Example:
        >>> search = GPSearch(1e-3, 1.0, seed=(0, 1), kappa=1000.0, grid_points=1001)
        >>> first = search.ask()[0]
        >>> search.tell(first, 2.3, 0.01)
        >>> second = search.ask()[0]
        >>> second != first and 1e-3 <= second <= 1.0
        True
    """

    def __init__(
        self,
        lr_min: float,
        lr_max: float,
        *,
        seed: Sequence[int],
        kappa: float,
        grid_points: int,
        choose_by: ChooseBy = "best_observed",
    ) -> None:
        self._log_interval = (math.log(lr_min), math.log(lr_max))
        self._places = np.linspace(0.0, 1.0, grid_points)
        self._lrs = [self._lr(place) for place in self._places]
        # The ends to the last bit: exp(log(lr)) may miss them.
        self._lrs[0], self._lrs[-1] = lr_min, lr_max
        self._seed = tuple(seed)
        self._kappa = kappa
        self._choose_by = choose_by
        self._told: list[_Told] = []
        self._running: list[float] = []

    def ask(self, count: int = 1) -> list[float]:
        """Propose LRs, one after the other; see :meth:`LRSearch.ask`.

        LRs that were asked and not told yet count as observed at their posterior mean (the
        kriging believer), so that a batch spreads out.
        """
        asked = []
        for _ in range(count):
            lr = self._propose()
            self._running.append(lr)
            asked.append(lr)
        return asked

    def tell(self, lr: float, loss: float | None, variance: float = 0.0) -> None:
        """Take in a result; see :meth:`LRSearch.tell`.

        The published code ignores the variance, and so does this search: the Gaussian process
        infers one noise level from all forecasts.
        """
        if lr in self._running:
            self._running.remove(lr)
        is_finite = loss is not None and math.isfinite(loss)
        self._told.append(_Told(lr, loss if is_finite else None))

    def best(self) -> float:
        """Choose an LR by the rule ``choose_by``; see :meth:`LRSearch.best`."""
        finite = [(told.loss, told.lr) for told in self._told if told.loss is not None]
        if not finite:
            raise ValueError("no LR was told that did not diverge")
        if self._choose_by == "best_observed":
            return min(finite)[1]
        mean, _ = self._posterior()
        diverged = {told.lr for told in self._told if told.loss is None}
        allowed = np.array([lr not in diverged for lr in self._lrs])
        return self._lrs[int(np.argmin(np.where(allowed, mean, np.inf)))]

    def running(self, lrs: Sequence[float]) -> None:
        """Count LRs as asked that another search object asked."""
        self._running += lrs

    def _propose(self) -> float:
        if not self._told and not self._running:
            generator = np.random.default_rng(self._seed)
            return self._lrs[int(generator.integers(len(self._lrs)))]
        mean, std = self._posterior()
        bound = mean - self._kappa * std
        used = {told.lr for told in self._told} | set(self._running)
        free = np.array([lr not in used for lr in self._lrs])
        if not free.any():
            raise ValueError(
                f"grid_points={len(self._lrs)} LRs are all asked; a search needs a point for each"
            )
        return self._lrs[int(np.argmin(np.where(free, bound, np.inf)))]

    def _posterior(self) -> tuple[Array, Array]:
        """Return μ and σ on the grid."""
        places = np.array([self._place(told.lr) for told in self._told])
        outcomes = self._standardised_outcomes()
        model = _fit(places, outcomes) if self._told else None
        if self._running:
            believed = np.array([self._place(lr) for lr in self._running])
            means = _predict(model, believed)[0] if model else np.zeros(len(believed))
            places = np.concatenate([places, believed])
            outcomes = np.concatenate([outcomes, means])
            model = _with_data(model, places, outcomes)
        assert model is not None
        return _predict(model, self._places)

    def _standardised_outcomes(self) -> Array:
        """Return y. A diverged LR counts as the worst forecast that was seen.

        A departure: the published code tells a loss of a million, beside which all others are
        equal.
        """
        finite = [told.loss for told in self._told if told.loss is not None]
        worst = max(finite, default=0.0)
        told_losses = [worst if told.loss is None else told.loss for told in self._told]
        losses: Array = np.clip(told_losses, -LARGEST_LOSS, LARGEST_LOSS)
        if len(losses) == 0:
            return losses
        spread = losses.std(ddof=1) if len(losses) > 1 else 0.0
        standardised: Array = (losses - losses.mean()) / (spread if spread > 0 else 1.0)
        return standardised

    def _place(self, lr: float) -> float:
        low, high = self._log_interval
        return (math.log(lr) - low) / (high - low)

    def _lr(self, place: float) -> float:
        low, high = self._log_interval
        return math.exp(low + place * (high - low))


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


def _with_data(fitted: SingleTaskGP | None, places: Array, outcomes: Array) -> SingleTaskGP:
    """Return a model of other data with the same parameters."""
    model = _model(places, outcomes)
    if fitted is not None:
        model.load_state_dict(fitted.state_dict())
    return model


def _predict(model: SingleTaskGP, places: Array) -> tuple[Array, Array]:
    model.eval()
    with torch.no_grad():
        posterior = model.posterior(torch.from_numpy(places).unsqueeze(-1))
    mean: Array = posterior.mean.squeeze(-1).numpy()
    std: Array = posterior.variance.squeeze(-1).clamp_min(0.0).sqrt().numpy()
    return mean, std
