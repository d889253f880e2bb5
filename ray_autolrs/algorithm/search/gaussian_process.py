"""The paper's search: at every stage, a Gaussian process asks and a forecaster judges.

Symbols
    η       learning rate (LR)
    x       log η scaled to [0, 1] over the search interval
    μ, σ    posterior mean and standard deviation of the forecast loss at x
            (:mod:`ray_autolrs.algorithm.search.gp_model`)
    κ       exploration weight, in standard deviations
    τ, τ′   steps of a stage and of a probe
    k       probes of a stage

We minimise. The next LR is argmin μ(x) - κσ(x) over a fixed grid of x, so that the search is
deterministic. At the paper's κ = 1000 it fills the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ray_autolrs.algorithm.field_checks import check, check_choice, check_integer, is_number
from ray_autolrs.algorithm.forecast.exponential import Exponential
from ray_autolrs.algorithm.forecast.forecaster import (
    MIN_SERIES_POINTS,
    Array,
    Forecast,
    Forecaster,
)
from ray_autolrs.algorithm.schedules.stage_plan import Stage
from ray_autolrs.algorithm.search.strategy import (
    Candidate,
    Choice,
    Observation,
    ProbeLosses,
    RunFacts,
    SearchStrategy,
    StageContext,
    validation_interval,
)
from ray_autolrs.extras import NeedsExtra

if TYPE_CHECKING:
    from ray_autolrs.algorithm.search.gp_model import Posterior

ChooseBy = Literal["best_observed", "posterior_mean"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GaussianProcess(SearchStrategy):
    """Searches each stage, for a part of its steps a probe, with the paper's numbers.

    While stages grow, probes are judged by their training losses, and from then on by validation
    losses (published code).

    Raises:
        ValueError: a field is out of its range.
    """

    probes: int = 10
    """LRs tried at the start of each stage (k). Source: the paper, section 1."""

    probe_fraction: float = 0.1
    """Steps of a probe as a part of its stage (τ′/τ). Source: the paper, section 1."""

    kappa: float = 1000.0
    """Weight of the posterior standard deviation in the lower confidence bound (κ)."""

    grid_points: int = 1001
    """Points, even in log LR, that the bound is minimised over. Ours: the published code samples
    at random, a grid makes the search deterministic."""

    choose_by: ChooseBy = "best_observed"
    """How a stage's LR is chosen: the probe with the lowest forecast (the published code's rule),
    or the minimiser of the posterior mean."""

    forecaster: Forecaster = field(default=Exponential())
    """Forecasts the training loss at a stage's end from a probe's."""

    validation_forecaster: Forecaster = field(
        default=Exponential(denoise_rounds=1, denoise_fraction=None)
    )
    """The same for validation losses. Source of its numbers: the published code."""

    validation_evals: int = 16
    """Validation losses taken in one probe, once stages have stopped growing. Source: the
    published code."""

    def __post_init__(self) -> None:
        check_integer(self, "probes", minimum=1)
        holds = is_number(self.probe_fraction) and 0 < self.probe_fraction <= 1
        check(self, "probe_fraction", holds, "must lie in (0, 1]")
        holds = is_number(self.kappa) and self.kappa >= 0
        check(self, "kappa", holds, "must be finite and not negative")
        check_integer(self, "grid_points", minimum=2)
        holds = self.grid_points >= self.probes
        check(self, "grid_points", holds, f"must be at least probes={self.probes}")
        check_choice(self, "choose_by", get_args(ChooseBy))
        check_integer(self, "validation_evals", minimum=MIN_SERIES_POINTS)
        for name in ("forecaster", "validation_forecaster"):
            holds = callable(getattr(getattr(self, name), "forecast", None))
            check(self, name, holds, "must be a Forecaster: an object with a method forecast")

    @property
    def most_parallel_probes(self) -> int:
        return self.probes

    def planned_steps(self, facts: RunFacts, stages: Sequence[Stage]) -> int:
        return self.probes * sum(self._probe_steps(stage) for stage in stages)

    def check_stage(self, stage: Stage) -> None:
        """Refuse stages whose probes are too short for a forecast.

        Raises:
            ValueError: as said.
        """
        steps = self._probe_steps(stage)
        check(
            self,
            "probe_fraction",
            steps >= MIN_SERIES_POINTS,
            f"gives probes of {steps} steps in a stage of {stage.steps}, and a forecast needs at "
            f"least {MIN_SERIES_POINTS}; lengthen the stage or the probe",
        )

    def suggest(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> Candidate | None:
        if len(told) + len(running) >= self.probes:
            return None
        steps = self._probe_steps(context.stage)
        evals = 0 if context.stage.grows else min(self.validation_evals, steps)
        lr, explanation = self._next_lr(context, told, running)
        return Candidate(lr, steps, evals, context.facts.shape, explanation)

    def judge(self, context: StageContext, candidate: Candidate, losses: ProbeLosses) -> Forecast:
        if candidate.evals == 0:
            return self.forecaster.forecast(losses.training, horizon=context.stage.steps)
        if max(losses.validation) >= context.initial_loss:
            # A series that jumped is no decaying exponential: its last loss stands (published
            # code). The standard deviation is ours: how far the series moved.
            std = float(np.std(losses.validation))
            return Forecast(loss=losses.validation[-1], std=std, trusted=False)
        interval = validation_interval(candidate.evals, candidate.steps)
        horizon = context.stage.steps // interval
        return self.validation_forecaster.forecast(losses.validation, horizon=horizon)

    def choose(
        self, context: StageContext, told: Sequence[Observation], rejected: Sequence[float]
    ) -> Choice | None:
        promised = [
            (loss, result.peak_lr, result.index)
            for result in told
            if (loss := _promised(result)) is not None
        ]
        if not promised:
            return None
        if self.choose_by == "best_observed":
            _, lr, index = min(promised)
            return Choice(lr, index)
        lrs, _ = lr_grid(*context.facts.lr_interval, self.grid_points)
        mean, _, _ = self._posterior(context, told, rejected, ())
        diverged = [result.peak_lr for result in told if _promised(result) is None]
        mean[self._places_on_grid(context, [*diverged, *rejected])] = np.inf
        best = int(np.argmin(mean))
        places = self._places_on_grid(context, [result.peak_lr for result in told])
        if best in places:
            tried = told[places.index(best)]
            return Choice(tried.peak_lr, tried.index)
        return Choice(lrs[best])

    def _probe_steps(self, stage: Stage) -> int:
        return round(stage.steps * self.probe_fraction)

    def _next_lr(
        self, context: StageContext, told: Sequence[Observation], running: Sequence[float]
    ) -> tuple[float, dict[str, float]]:
        """Return the LR to try, and the parameters of the fit that it comes from."""
        lrs, _ = lr_grid(*context.facts.lr_interval, self.grid_points)
        if not told and not running:
            generator = np.random.default_rng((context.facts.seed, context.stage.number))
            return lrs[int(generator.integers(len(lrs)))], {}
        mean, std, parameters = self._posterior(context, told, (), running)
        bound = mean - self.kappa * std
        asked = [*(result.peak_lr for result in told), *running]
        bound[self._places_on_grid(context, asked)] = np.inf
        return lrs[int(np.argmin(bound))], asdict(parameters)

    def _posterior(
        self,
        context: StageContext,
        told: Sequence[Observation],
        rejected: Sequence[float],
        running: Sequence[float],
    ) -> Posterior:
        """Return μ and σ on the grid; an LR that was rejected counts as a probe that diverged."""
        with NeedsExtra("paper"):
            from ray_autolrs.algorithm.search import gp_model  # loading BoTorch takes seconds

        low, high = map(math.log, context.facts.lr_interval)
        observed = [*(result.peak_lr for result in told), *rejected]
        losses = [_promised(result) for result in told]
        _, places = lr_grid(*context.facts.lr_interval, self.grid_points)
        return gp_model.posterior(
            [(math.log(lr) - low) / (high - low) for lr in observed],
            [*losses, *[None] * len(rejected)],
            [(math.log(lr) - low) / (high - low) for lr in running],
            places,
        )

    def _places_on_grid(self, context: StageContext, lrs: Sequence[float]) -> list[int]:
        low, high = map(math.log, context.facts.lr_interval)
        steps = self.grid_points - 1
        return [round((math.log(lr) - low) / (high - low) * steps) for lr in lrs]


def _promised(result: Observation) -> float | None:
    """Return the forecast loss; None where the probe diverged, or the loss is not finite."""
    forecast = result.forecast
    return forecast.loss if forecast is not None and math.isfinite(forecast.loss) else None


@lru_cache(maxsize=4)
def lr_grid(lr_min: float, lr_max: float, points: int) -> tuple[tuple[float, ...], Array]:
    """Return the LRs that may be tried, in order, and their x, shape (points,)."""
    low, high = math.log(lr_min), math.log(lr_max)
    places = np.linspace(0.0, 1.0, points)
    lrs = [math.exp(low + place * (high - low)) for place in places]
    # The ends to the last bit: exp(log(lr)) may miss them.
    return (lr_min, *lrs[1:-1], lr_max), places
