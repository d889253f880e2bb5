"""The settings of a run: one frozen dataclass, checked when it is built.

The symbols in brackets are the paper's (AutoLRS, ICLR 2021).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ray_autolrs.config_rules import (
    Averaging,
    ChooseBy,
    ForecasterName,
    ProbeLanes,
    Search,
    ShapeName,
    check_config,
)

MOST_LOOKAHEAD = 0.2
"""Largest 1 - β that a batch size leads to. Ours (measured)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoLRSConfig:
    """How AutoLRS cuts a run into stages, searches each one and judges its probes.

    The default searches once, before the first step, until the best LR is bracketed, and trains at
    a constant LR with Schedule-Free averaging; :meth:`paper` is the paper's method. Steps are
    optimizer steps; losses are the task's mean loss; learning rates (LRs) are those of the
    optimizer's first parameter group, the other groups keep their ratio to it.

    Fields that are None have a default that depends on others: the property
    ``resolved_<field>`` tells it.

    Raises:
        ValueError: a field is out of its range, or two fields contradict each other. The
            message names the field, its value and the rule.
    """

    total_steps: int | None
    """Optimizer steps of the trained model, warm-up included. Probe steps come on top. None
    trains until ``AutoLRSTrainer.finish()``."""

    lr_min: float | None
    """Lower end of the LR search interval (η_min). None for both ends runs an LR range test,
    unless there is a ``first_lr``."""

    lr_max: float | None
    """Upper end of the LR search interval (η_max)."""

    seed: int = 0
    """Seeds the search, the batches, the augmentation and the model's random numbers."""

    # Stages ------------------------------------------------------------------------------

    first_stage_steps: int | None = None
    """Applied steps in the first stage (τ at the start); a checkpoint is kept after each stage.
    None is 6% of the run, or 1000. The paper's is 1000 (published code)."""

    max_stage_steps: int | None = None
    """Applied steps in a stage once it stops growing (τ_max). None is a quarter of the run, or
    1000. The paper's is 8000 (published code)."""

    stage_growth: int = 2
    """Factor by which a stage is longer than the one before. Source: the published code."""

    shape: ShapeName = "constant"
    """Factor of the LR over the run, that each stage's LR is multiplied with. The paper's is
    constant; the others fall to zero at ``total_steps``."""

    decay_fraction: float = 0.3
    """Part of the run in which the shape ``"wsd"`` falls, and of what was trained before
    ``finish()`` that a run without an end adds to fall. Ours (measured)."""

    warmup_steps: int | None = None
    """Steps of warm-up. With a search before the first step it rises to the LR that was found;
    otherwise it comes before the first stage, linearly to ``warmup_lr``. None is 5% of the run, or
    100 without an end; to a found LR with averaging it is 20%, or 500: an average of weights is
    spoilt for long by early steps that were too large. The paper's preset has none."""

    warmup_power: float | None = None
    """Power of the step that the warm-up to a found LR rises with. None is 0.5 with
    averaging and 1 (linear) without. Ours (measured)."""

    warmup_lr: float | None = None
    """LR at the end of warm-up. None takes the geometric mean of the search interval, a
    choice of ours: the excerpt of the paper names none."""

    # Search ------------------------------------------------------------------------------

    search: Search = "bracket"
    """``"bracket"``: before the first step LRs are tried downhill until the best has a worse one
    on each side, and the weighted mean of these three is taken. ``"halving"``: six LRs, and the
    best three again for longer. After either, a later stage is searched only where another LR is
    forecast to gain more than the forecast's error and the probe's cost
    (:mod:`ray_autolrs.algorithm.search.research`). ``"gaussian_process"``: the paper's, at each stage.
    ``"midpoints"``: at each stage, LRs spread over the interval, then halving the distance around
    the best."""

    probe_steps: int | None = None
    """Steps of a probe before the first step; the longest of ``search="halving"`` take 2.5 times
    as many. None is 2.2% of the run, at most 100, or less than half of that for halving: see
    ``resolved_probe_steps``. Ours (measured)."""

    first_lr: float | None = None
    """A guess to search around before the first step, with ``lr_min`` and ``lr_max`` left None:
    as far as downhill leads, or with ``search="halving"`` a factor of 16 to each side."""

    probe_fraction: float = 0.1
    """Steps of a probe as a fraction of its stage (τ′/τ), where each stage is searched. Source:
    the paper, section 1."""

    probes_per_stage: int = 10
    """LRs tried at the start of each stage (k), where each is searched. Source: the paper,
    section 1."""

    kappa: float = 1000.0
    """Weight of the posterior standard deviation in the lower confidence bound (κ)."""

    lr_grid_points: int = 1001
    """Points, evenly spaced in log LR, on which the acquisition function is minimised.
    Ours: the published code samples at random, a grid makes the search deterministic."""

    choose_by: ChooseBy = "best_observed"
    """How a stage's LR is chosen: the probe with the lowest forecast (the published code's
    rule) or the minimiser of the Gaussian process's posterior mean."""

    # Averaging ---------------------------------------------------------------------------

    averaging: Averaging = "schedule_free"
    """Average of the weights that probes, validation and the final model are judged at:
    ``"schedule_free"`` (gradients are taken near it, and the optimizer's own momentum is turned
    off), ``"ema"``, ``"tail"`` or ``"none"``. The paper has none."""

    averaging_momentum: float | None = None
    """How near to the average Schedule-Free takes its gradients (β). None is 0.8 for batches of
    32 samples and fewer and grows with larger ones: see :meth:`resolved_averaging_momentum`. The
    package's is 0.9."""

    averaging_power: float = 2.0
    """Weight of a step in the Schedule-Free average, as a power of its number (r): 2 is a mean of
    about the last half of the steps so far, which lags less than that of all where the loss
    falls fast late. Ours (measured); the package's is 0, which weights all steps after the warm-up
    alike."""

    ema_decay: float = 0.999
    """Largest weight of the past in a step of ``averaging="ema"``."""

    averaging_tail: float = 0.3
    """Part of the steps so far that ``averaging="tail"`` is about the mean of."""

    calibration_batches: int = 20
    """Training batches, of one micro-batch each, from which BatchNorm's statistics are taken
    anew at the averaged weights before each look at them."""

    # Forecast ----------------------------------------------------------------------------

    forecaster: ForecasterName | None = None
    """How a probe's training loss is judged. None judges by the validation loss at the probe's
    end, at the averaged weights. The paper's is ``"exponential"``, on the training loss while
    stages grow and on the validation loss from then on."""

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

    validation_samples: int | None = None
    """Size of the fixed validation subset that probes are judged on, in samples. None is 16
    global batches, at most 512, which costs about as much as five steps. The paper's preset takes
    1024; the excerpt says only that it is small."""

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

    keep_best: bool = True
    """Whether the trained model is that of the lowest validation loss among the run's evaluations,
    rather than the last one: where it overfits, the best lies before the end. The paper's is the
    last."""

    divergence_check_steps: int = 10
    """Steps between looks at the losses of a probe: a diverged one ends at the next look.
    Each look waits for the device and averages the losses over the workers."""

    def __post_init__(self) -> None:
        check_config(self)

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
            "search": "gaussian_process",
            "averaging": "none",
            "shape": "constant",
            "forecaster": "exponential",
            "warmup_steps": 0,
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
            "validation_samples": 1024,
            "probe_lanes": "sequential",
            "keep_best": False,
        }
        return cls(total_steps=total_steps, lr_min=lr_min, lr_max=lr_max, **(values | overrides))

    @property
    def lr_interval(self) -> tuple[float, float]:
        """(lr_min, lr_max), which are known once the range test has run."""
        assert self.lr_min is not None, "the range test comes first"
        assert self.lr_max is not None, "the range test comes first"
        return self.lr_min, self.lr_max

    @property
    def resolved_warmup_lr(self) -> float:
        """LR at the end of a warm-up of its own: the interval's geometric mean by default."""
        if self.warmup_lr is not None:
            return self.warmup_lr
        return math.sqrt(self.lr_interval[0] * self.lr_interval[1])

    @property
    def warmup_is_applied_first(self) -> bool:
        """Whether the warm-up comes before the first search, rather than to the LR it finds."""
        return not self.searches_first

    @property
    def searches_first(self) -> bool:
        """Whether the search comes before the first step, rather than at each stage."""
        return self.search in ("bracket", "halving")

    @property
    def resolved_warmup_steps(self) -> int:
        """Steps of the warm-up."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        is_long = self.searches_first and self.averaging != "none"
        if self.total_steps is None:
            return 500 if is_long else 100
        return round((0.2 if is_long else 0.05) * self.total_steps)

    @property
    def resolved_warmup_power(self) -> float:
        """Power of the step that the warm-up to the found LR rises with."""
        if self.warmup_power is not None:
            return self.warmup_power
        return 1.0 if self.averaging == "none" else 0.5

    @property
    def resolved_first_stage_steps(self) -> int:
        """Applied steps in the first stage."""
        if self.first_stage_steps is not None:
            return self.first_stage_steps
        if self.total_steps is None:
            return 1000
        return max(round(0.06 * self.total_steps), min(self.total_steps, 20))

    @property
    def resolved_max_stage_steps(self) -> int:
        """Applied steps in the longest stages."""
        if self.max_stage_steps is not None:
            return self.max_stage_steps
        quarter = 1000 if self.total_steps is None else self.total_steps // 4
        return max(quarter, self.resolved_first_stage_steps)

    @property
    def resolved_probe_steps(self) -> int:
        """Steps of the shortest probes before the first step."""
        if self.probe_steps is not None:
            return self.probe_steps
        if self.search == "bracket":
            return 100 if self.total_steps is None else min(100, max(12, self.total_steps // 46))
        if self.total_steps is None:
            return 40
        # From 20 steps on a probe tells LRs apart. Below 2300 steps of a run 20 would cost more
        # than a fifth of it, and above 3600 more cost less than a tenth.
        for_short_runs = min(20, max(12, round(0.0085 * self.total_steps)))
        return min(40, max(for_short_runs, round(0.0055 * self.total_steps)))

    def resolved_averaging_momentum(self, global_batch_size: int) -> float:
        """Return β of Schedule-Free: 1 - β = 0.2 √(32 / batch), within 0.05 and 0.2.

        The larger the batch, the less noise is left to average and the nearer to the average
        gradients are wanted. Ours, from batches of 8 to 256 samples (bench/NOTES.md).

        >>> config = AutoLRSConfig(total_steps=1000, lr_min=1e-3, lr_max=1.0)
        >>> [round(config.resolved_averaging_momentum(size), 3) for size in (8, 32, 128, 2048)]
        [0.8, 0.8, 0.9, 0.95]
        """
        if self.averaging_momentum is not None:
            return self.averaging_momentum
        return 1 - min(
            MOST_LOOKAHEAD, max(0.05, MOST_LOOKAHEAD * math.sqrt(32 / global_batch_size))
        )

    def for_batch_size(self, global_batch_size: int) -> AutoLRSConfig:
        """Return the settings with those filled in that depend on the batch, in samples."""
        if self.averaging != "schedule_free":
            return self
        momentum = self.resolved_averaging_momentum(global_batch_size)
        return dataclasses.replace(self, averaging_momentum=momentum)

    def probe_validation_samples(self, global_batch_size: int) -> int:
        """Return the size of the fixed validation subset that probes are judged on."""
        if self.validation_samples is not None:
            return self.validation_samples
        return min(512, 16 * global_batch_size)

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
