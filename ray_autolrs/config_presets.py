"""The parts of the presets of :class:`~ray_autolrs.config.AutoLRSConfig`."""

from __future__ import annotations

from typing import Any

from ray_autolrs.algorithm.schedules.run_shapes import Constant
from ray_autolrs.algorithm.schedules.stage_plan import Stages
from ray_autolrs.algorithm.schedules.warmup import Warmup
from ray_autolrs.algorithm.search.bracket import Bracket
from ray_autolrs.algorithm.search.looks import Looks
from ray_autolrs.training.settings import Validation

STAGES = 10
"""Of a staged run."""


def paper_parts() -> dict[str, Any]:
    """Return the paper's method with the paper's numbers."""
    # Late: the Gaussian process takes SciPy and BoTorch with it.
    from ray_autolrs.algorithm.search.gaussian_process import GaussianProcess

    return {
        "search": GaussianProcess(),
        "averaging": None,
        "stages": Stages(first_steps=1000, longest_steps=8000, growth=2),
        "warmup": Warmup(steps=0),
        "shape": Constant(),
        "validation": Validation(keep_best=False, probe_samples=1024),
    }


def staged_parts(total_steps: int | None) -> dict[str, Any]:
    """Return the default's parts, stage by stage."""
    steps = 1000 if total_steps is None else max(min(total_steps, 20), total_steps // STAGES)
    return {"search": Bracket(research=Looks()), "stages": Stages(first_steps=steps, growth=1)}
