"""The settings of a run: one frozen dataclass, checked when it is built.

The symbols in brackets are the paper's (AutoLRS, ICLR 2021).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

ChooseBy = Literal["best_observed", "posterior_mean"]
ProbeLanes = Literal["auto", "sequential", "workers", "actors"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoLRSConfig:
    """How AutoLRS cuts a run into stages, searches each one and forecasts its probes.

    The defaults are the paper's. Steps are optimizer steps; losses are the task's mean
    loss; learning rates (LRs) are those of the optimizer's first parameter group, the
    other groups keep their ratio to it.

    Raises:
        ValueError: a field is out of its range, or two fields contradict each other. The
            message names the field, its value and the rule.
    """

    total_steps: int
    """Optimizer steps of the trained model, warm-up included. Probe steps come on top."""

    lr_min: float
    """Lower end of the LR search interval (η_min)."""

    lr_max: float
    """Upper end of the LR search interval (η_max)."""

    seed: int = 0
    """Seeds the search, the batches, the augmentation and the model's random numbers."""

    # Stages ------------------------------------------------------------------------------

    first_stage_steps: int = 1000
    """Applied steps in the first stage (τ at the start). Source: the published code."""

    max_stage_steps: int = 8000
    """Applied steps in a stage once it stops growing (τ_max). Source: the published code."""

    stage_growth: int = 2
    """Factor by which a stage is longer than the one before. Source: the published code."""

    probe_fraction: float = 0.1
    """Steps of a probe as a fraction of its stage (τ′/τ). Source: the paper, section 1."""

    probes_per_stage: int = 10
    """LRs tried at the start of each stage (k). Source: the paper, section 1."""

    warmup_steps: int = 0
    """Steps of linear warm-up before the first stage, not searched; 0 for none."""

    warmup_lr: float | None = None
    """LR at the end of warm-up. None takes the geometric mean of the search interval, a
    choice of ours: the excerpt of the paper names none."""

    # Search ------------------------------------------------------------------------------

    kappa: float = 1000.0
    """Weight of the posterior standard deviation in the lower confidence bound (κ)."""

    lr_grid_points: int = 1001
    """Points, evenly spaced in log LR, on which the acquisition function is minimised.
    Ours: the published code samples at random, a grid makes the search deterministic."""

    choose_by: ChooseBy = "best_observed"
    """How a stage's LR is chosen: the probe with the lowest forecast (the published code's
    rule) or the minimiser of the Gaussian process's posterior mean."""

    # Forecast ----------------------------------------------------------------------------

    denoise_rounds: int = 10
    """Rounds of spline fit and outlier removal on a training-loss series. Source: the
    published code."""

    denoise_fraction: float = 0.03
    """Fraction of a training-loss series looked at as outliers in each round. Source: the
    published code."""

    denoise_window: float = 0.5
    """Only outliers within this first fraction of a series are dropped. Source: the
    published code."""

    validation_denoise_rounds: int = 1
    """Rounds of outlier removal, of one point each, on a validation-loss series. Source: the
    published code."""

    validation_evals: int = 16
    """Validation losses taken in one probe, once stages have stopped growing. Source: the
    published code."""

    validation_samples: int = 1024
    """Size of the fixed validation subset that those losses are taken on, in samples. Ours:
    the excerpt of the paper says only that it is small."""

    # Lanes -------------------------------------------------------------------------------

    probe_lanes: ProbeLanes = "auto"
    """Who runs the probes of a stage: ``"sequential"``, all workers together, one probe after
    the other; ``"workers"``, each training worker by itself; ``"actors"``, the workers and
    further actors on free resources; ``"auto"`` takes what the cluster and the model allow."""

    probe_actors: int | None = None
    """Actors besides the workers. None takes what is free when the run starts, and lets an
    autoscaler bring more, up to one lane for each probe of a stage."""

    resources_per_probe_actor: dict[str, float] | None = None
    """What an actor holds, such as ``{"CPU": 1, "GPU": 0.5}``. None is what a worker holds."""

    # Run ---------------------------------------------------------------------------------

    eval_every_steps: int | None = None
    """Applied steps between evaluations on the whole validation set, which are counted from
    the start of each stage. None evaluates at the end of each stage only."""

    divergence_check_steps: int = 10
    """Steps between looks at the losses of a probe: a diverged one ends at the next look.
    Each look waits for the device and averages the losses over the workers."""

    def __post_init__(self) -> None:
        for name in ("lr_min", "lr_max"):
            value = getattr(self, name)
            _check(self, name, math.isfinite(value) and value > 0, "must be positive and finite")
        _check(
            self,
            "lr_min",
            self.lr_min < self.lr_max,
            f"must be smaller than lr_max={self.lr_max!r}",
        )
        for name in (
            "total_steps",
            "first_stage_steps",
            "max_stage_steps",
            "stage_growth",
            "probes_per_stage",
            "validation_samples",
            "divergence_check_steps",
        ):
            _check_integer(self, name, minimum=1)
        for name in ("seed", "warmup_steps", "denoise_rounds", "validation_denoise_rounds"):
            _check_integer(self, name, minimum=0)
        _check_integer(self, "lr_grid_points", minimum=self.probes_per_stage)
        _check_integer(self, "validation_evals", minimum=MIN_SERIES_POINTS)
        if self.eval_every_steps is not None:
            _check_integer(self, "eval_every_steps", minimum=1)
        _check(
            self,
            "max_stage_steps",
            self.max_stage_steps >= self.first_stage_steps,
            f"must be at least first_stage_steps={self.first_stage_steps}",
        )
        _check(
            self,
            "max_stage_steps",
            self.stage_growth > 1 or self.max_stage_steps == self.first_stage_steps,
            f"must equal first_stage_steps={self.first_stage_steps} when stage_growth=1",
        )
        _check(self, "probe_fraction", 0 < self.probe_fraction <= 1, "must lie in (0, 1]")
        shortest_probe = round(self.first_stage_steps * self.probe_fraction)
        _check(
            self,
            "first_stage_steps",
            shortest_probe >= MIN_SERIES_POINTS,
            f"times probe_fraction={self.probe_fraction} gives probes of {shortest_probe} steps, "
            f"and a forecast needs at least {MIN_SERIES_POINTS}; lengthen the stage or the probe",
        )
        _check(
            self,
            "total_steps",
            self.total_steps >= self.warmup_steps + self.first_stage_steps,
            f"must hold warmup_steps={self.warmup_steps} and one stage of "
            f"first_stage_steps={self.first_stage_steps}; train longer or shorten the stage",
        )
        if self.warmup_lr is not None:
            _check(
                self,
                "warmup_lr",
                math.isfinite(self.warmup_lr) and self.warmup_lr > 0,
                "must be positive and finite",
            )
        _check(
            self,
            "kappa",
            math.isfinite(self.kappa) and self.kappa >= 0,
            "must be finite and not negative",
        )
        _check(
            self,
            "choose_by",
            self.choose_by in ("best_observed", "posterior_mean"),
            "must be 'best_observed' or 'posterior_mean'",
        )
        _check(
            self,
            "probe_lanes",
            self.probe_lanes in get_args(ProbeLanes),
            f"must be one of {get_args(ProbeLanes)}",
        )
        self._check_actors()
        _check(self, "denoise_fraction", 0 <= self.denoise_fraction < 0.5, "must lie in [0, 0.5)")
        _check(self, "denoise_window", 0 <= self.denoise_window <= 1, "must lie in [0, 1]")

    def _check_actors(self) -> None:
        uses_actors = self.probe_lanes in ("auto", "actors")
        for name in ("probe_actors", "resources_per_probe_actor"):
            is_set = getattr(self, name) is not None
            _check(self, name, uses_actors or not is_set, "needs probe_lanes='actors' or 'auto'")
        if self.probe_actors is not None:
            _check_integer(self, "probe_actors", minimum=0 if self.probe_lanes == "auto" else 1)
        if self.resources_per_probe_actor is not None:
            amounts = self.resources_per_probe_actor.values()
            _check(
                self,
                "resources_per_probe_actor",
                len(amounts) > 0 and all(amount > 0 for amount in amounts),
                'must name positive amounts, such as {"CPU": 1}',
            )

    @classmethod
    def paper(
        cls, total_steps: int, lr_min: float, lr_max: float, **overrides: Any
    ) -> AutoLRSConfig:
        """Return the paper's method with the paper's numbers, whatever the defaults become.

        Args:
            total_steps: applied optimizer steps, warm-up included.
            lr_min: lower end of the search interval.
            lr_max: upper end of the search interval.
            **overrides: any other field, for example ``warmup_steps`` or a smaller
                ``first_stage_steps`` for a short run.

        Raises:
            ValueError: as the constructor.
            TypeError: an override is not a field.
        """
        values: dict[str, Any] = {
            "first_stage_steps": 1000,
            "max_stage_steps": 8000,
            "stage_growth": 2,
            "probe_fraction": 0.1,
            "probes_per_stage": 10,
            "kappa": 1000.0,
            "choose_by": "best_observed",
            "denoise_rounds": 10,
            "denoise_fraction": 0.03,
            "denoise_window": 0.5,
            "validation_denoise_rounds": 1,
            "validation_evals": 16,
            "probe_lanes": "sequential",
        }
        return cls(total_steps=total_steps, lr_min=lr_min, lr_max=lr_max, **(values | overrides))

    @property
    def resolved_warmup_lr(self) -> float:
        """LR at the end of warm-up: ``warmup_lr``, or the interval's geometric mean."""
        if self.warmup_lr is not None:
            return self.warmup_lr
        return math.sqrt(self.lr_min * self.lr_max)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, in their order."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AutoLRSConfig:
        """Build a config from :meth:`to_dict`'s result.

        Raises:
            ValueError: a key is not a field, a required field is missing, or a value is
                refused.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"config has no field {unknown[0]!r}; its fields are {sorted(known)}")
        missing = sorted({"total_steps", "lr_min", "lr_max"} - set(values))
        if missing:
            raise ValueError(f"config lacks the field {missing[0]!r}")
        return cls(**values)


MIN_SERIES_POINTS = 8
"""Fewest losses that a forecast is made from. Ours: the spline and the exponential have three
free parameters each, and the published code's outlier filter fails on short series."""


def _check(config: AutoLRSConfig, name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name}={getattr(config, name)!r} {rule}")


def _check_integer(config: AutoLRSConfig, name: str, *, minimum: int) -> None:
    value = getattr(config, name)
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    rule = f"must be an integer of at least {minimum}"
    _check(config, name, is_integer and value >= minimum, rule)
