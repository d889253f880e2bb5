"""From the settings to the rules of the stage machine."""

from __future__ import annotations

from ray_autolrs.algorithm.schedules.stage_plan import plan_stages
from ray_autolrs.algorithm.search.bracket import BracketStrategy, bracket_steps
from ray_autolrs.algorithm.search.halving import SHORT_PROBES, HalvingStrategy, halving_steps
from ray_autolrs.algorithm.search.midpoints import MidpointsStrategy
from ray_autolrs.algorithm.search.strategy import SearchStrategy
from ray_autolrs.algorithm.stages.stage_search import Rules
from ray_autolrs.config import AutoLRSConfig


def rules_of(config: AutoLRSConfig, parallel_probes: int = 1) -> Rules:
    """Return the rules that a run's settings ask for.

    Args:
        config: the settings.
        parallel_probes: see :attr:`Rules.parallel_probes`.
    """
    return Rules(config, _strategy(config), parallel_probes)


def planned_probe_steps(config: AutoLRSConfig) -> int:
    """Return the probe steps of a run whose end is known, if nothing has to be searched twice.

    ``search="bracket"`` may take a probe less, or a few more.

    >>> planned_probe_steps(AutoLRSConfig(total_steps=2300, lr_min=1e-3, lr_max=1.0))
    200
    """
    match config.search:
        case "bracket":
            return bracket_steps(config)
        case "halving":
            return halving_steps(config)
        case _:
            return sum(stage.probe_steps for stage in plan_stages(config)) * config.probes_per_stage


def most_parallel_probes(config: AutoLRSConfig) -> int:
    """Return how many probes of a stage can run at the same time."""
    match config.search:
        case "bracket":
            return 2
        case "halving":
            return SHORT_PROBES
        case _:
            return config.probes_per_stage


def _strategy(config: AutoLRSConfig) -> SearchStrategy:
    match config.search:
        case "bracket":
            return BracketStrategy(config)
        case "halving":
            return HalvingStrategy(config)
        case "midpoints":
            return MidpointsStrategy(config)
        case "gaussian_process":
            # Loading BoTorch takes seconds, and only this strategy needs it.
            from ray_autolrs.algorithm.search.gaussian_process import GaussianProcessStrategy

            return GaussianProcessStrategy(config)
