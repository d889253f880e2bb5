"""What the settings of a run must satisfy: ranges of fields, and relations between them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from ray_autolrs.config import AutoLRSConfig

ChooseBy = Literal["best_observed", "posterior_mean"]
ProbeLanes = Literal["auto", "sequential", "workers", "actors"]
Search = Literal["bracket", "halving", "gaussian_process", "midpoints"]
ForecasterName = Literal["exponential", "bounded_exponential", "tail_mean", "tail_median"]
Averaging = Literal["none", "schedule_free", "ema", "tail"]
ShapeName = Literal["constant", "wsd", "linear", "cosine"]

MIN_SERIES_POINTS = 8
"""Fewest losses that a forecast is made from. Ours: the spline and the exponential have three
free parameters each, and the published code's outlier filter fails on short series."""

CHOICES = {
    "choose_by": ChooseBy,
    "probe_lanes": ProbeLanes,
    "search": Search,
    "averaging": Averaging,
    "shape": ShapeName,
}
INTEGERS = {
    "stage_growth": 1,
    "probes_per_stage": 1,
    "divergence_check_steps": 1,
    "calibration_batches": 1,
    "seed": 0,
    "denoise_rounds": 0,
    "validation_denoise_rounds": 0,
    "validation_evals": MIN_SERIES_POINTS,
}
"""Fields that are integers, with the smallest value."""

OPTIONAL_INTEGERS = {
    "total_steps": 1,
    "first_stage_steps": 1,
    "max_stage_steps": 1,
    "warmup_steps": 0,
    "validation_samples": 1,
    "probe_steps": MIN_SERIES_POINTS,
    "eval_every_steps": 1,
}
"""The same for fields that may be None."""


def check_config(config: AutoLRSConfig) -> None:
    """Refuse settings that are out of range or contradict each other.

    Raises:
        ValueError: the message names the field, its value, the rule and the remedy.
    """
    for name, choices in CHOICES.items():
        rule = f"must be one of {get_args(choices)}"
        _check(config, name, getattr(config, name) in get_args(choices), rule)
    names = get_args(ForecasterName)
    _check(
        config,
        "forecaster",
        config.forecaster is None or config.forecaster in names,
        f"must be None or one of {names}",
    )
    for name, minimum in INTEGERS.items():
        _check_integer(config, name, minimum=minimum)
    for name, minimum in OPTIONAL_INTEGERS.items():
        if getattr(config, name) is not None:
            _check_integer(config, name, minimum=minimum)
    _check_integer(config, "lr_grid_points", minimum=config.probes_per_stage)
    _check(config, "keep_best", isinstance(config.keep_best, bool), "must be True or False")
    _check_interval(config)
    _check_fractions(config)
    _check_actors(config)
    _check_stages(config)


def _check_interval(config: AutoLRSConfig) -> None:
    for name in ("lr_min", "lr_max", "warmup_lr", "first_lr"):
        value = getattr(config, name)
        holds = value is None or (math.isfinite(value) and value > 0)
        _check(config, name, holds, "must be positive and finite")
    if config.lr_min is None or config.lr_max is None:
        rule = f"must be None, as lr_max={config.lr_max!r}: the range test finds both or none"
        _check(config, "lr_min", config.lr_min is config.lr_max, rule)
    else:
        rule = f"must be smaller than lr_max={config.lr_max!r}"
        _check(config, "lr_min", config.lr_min < config.lr_max, rule)
    rule = "is for search='bracket' and search='halving' only"
    _check(config, "first_lr", config.first_lr is None or config.searches_first, rule)
    rule = "has an interval of its own: leave lr_min and lr_max None, or first_lr out"
    _check(config, "first_lr", config.first_lr is None or config.lr_min is None, rule)
    _check(
        config,
        "warmup_lr",
        config.warmup_lr is None or not config.searches_first,
        f"must be None with search={config.search!r}, whose warm-up rises to the LR that it finds",
    )


def _check_fractions(config: AutoLRSConfig) -> None:
    kappa = config.kappa
    _check(config, "kappa", math.isfinite(kappa) and kappa >= 0, "must be finite and not negative")
    for name in ("probe_fraction", "averaging_tail"):
        _check(config, name, 0 < getattr(config, name) <= 1, "must lie in (0, 1]")
    for name in ("averaging_momentum", "ema_decay", "decay_fraction"):
        value = getattr(config, name)
        _check(config, name, value is None or 0 < value < 1, "must lie in (0, 1)")
    rise = config.resolved_warmup_power
    _check(config, "warmup_power", math.isfinite(rise) and rise > 0, "must be positive and finite")
    power = config.averaging_power
    rule = "must be finite and not negative"
    _check(config, "averaging_power", math.isfinite(power) and power >= 0, rule)
    _check(config, "denoise_fraction", 0 <= config.denoise_fraction < 0.5, "must lie in [0, 0.5)")
    _check(config, "denoise_window", 0 <= config.denoise_window <= 1, "must lie in [0, 1]")


def _check_actors(config: AutoLRSConfig) -> None:
    uses_actors = config.probe_lanes in ("auto", "actors")
    for name in ("probe_actors", "resources_per_probe_actor"):
        is_set = getattr(config, name) is not None
        _check(config, name, uses_actors or not is_set, "needs probe_lanes='actors' or 'auto'")
    if config.probe_actors is not None:
        _check_integer(config, "probe_actors", minimum=0 if config.probe_lanes == "auto" else 1)
    if config.resources_per_probe_actor is not None:
        amounts = config.resources_per_probe_actor.values()
        _check(
            config,
            "resources_per_probe_actor",
            len(amounts) > 0 and all(amount > 0 for amount in amounts),
            'must name positive amounts, such as {"CPU": 1}',
        )


def _check_stages(config: AutoLRSConfig) -> None:
    first, longest = config.resolved_first_stage_steps, config.resolved_max_stage_steps
    rule = f"must be at least first_stage_steps={first}"
    _check(config, "max_stage_steps", longest >= first, rule)
    rule = f"must equal first_stage_steps={first} when stage_growth=1"
    _check(config, "max_stage_steps", config.stage_growth > 1 or longest == first, rule)
    if not config.searches_first:
        shortest_probe = round(first * config.probe_fraction)
        _check(
            config,
            "first_stage_steps",
            shortest_probe >= MIN_SERIES_POINTS,
            f"times probe_fraction={config.probe_fraction} gives probes of {shortest_probe} steps, "
            f"and a forecast needs at least {MIN_SERIES_POINTS}; lengthen the stage or the probe",
        )
    if config.total_steps is None:
        rule = "must be 'constant' or 'wsd' where total_steps is None: the others need an end"
        _check(config, "shape", config.shape in ("constant", "wsd"), rule)
        return
    applied_before = config.resolved_warmup_steps if config.warmup_is_applied_first else 0
    _check(
        config,
        "total_steps",
        config.total_steps >= applied_before + first,
        f"must hold warmup_steps={applied_before} and one stage of first_stage_steps={first}; "
        "train longer or shorten the stage",
    )
    decays = config.decay_fraction if config.shape == "wsd" else 0.0
    _check(
        config,
        "warmup_steps",
        config.resolved_warmup_steps < config.total_steps * (1 - decays),
        f"must end before the decay of shape={config.shape!r} begins, and before the run does",
    )


def _check(config: AutoLRSConfig, name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name}={getattr(config, name)!r} {rule}")


def _check_integer(config: AutoLRSConfig, name: str, *, minimum: int) -> None:
    value: Any = getattr(config, name)
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    rule = f"must be an integer of at least {minimum}"
    _check(config, name, is_integer and value >= minimum, rule)
