"""AutoLRS on Ray: train a PyTorch model and find its learning-rate schedule on the way.

The public names are loaded when they are first used, so that importing a part of the package
(``ray_autolrs.algorithm``, say) loads neither Ray nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_autolrs.algorithm.forecast.bounded_exponential import BoundedExponential
    from ray_autolrs.algorithm.forecast.exponential import Exponential
    from ray_autolrs.algorithm.schedules.run_shapes import WSD, Constant, Cosine, Linear
    from ray_autolrs.algorithm.schedules.stage_plan import Stages
    from ray_autolrs.algorithm.schedules.warmup import Warmup
    from ray_autolrs.algorithm.search.bracket import Bracket
    from ray_autolrs.algorithm.search.gaussian_process import GaussianProcess
    from ray_autolrs.algorithm.search.looks import Looks
    from ray_autolrs.algorithm.search.research import Research
    from ray_autolrs.checkpoint_settings import Checkpoints
    from ray_autolrs.cluster.run_result import AutoLRSResult
    from ray_autolrs.cluster.trainer import AutoLRSTrainer
    from ray_autolrs.config import AutoLRSConfig
    from ray_autolrs.lanes import Lanes
    from ray_autolrs.schedule import LRSchedule
    from ray_autolrs.task import TrainingTask
    from ray_autolrs.training.averaging.ema import EMA
    from ray_autolrs.training.averaging.schedule_free import ScheduleFreeAverage
    from ray_autolrs.training.averaging.schedule_free_optimizer import ScheduleFree
    from ray_autolrs.training.find_lr import find_lr
    from ray_autolrs.training.settings import Validation

__all__ = [
    "EMA",
    "WSD",
    "AutoLRSConfig",
    "AutoLRSResult",
    "AutoLRSTrainer",
    "BoundedExponential",
    "Bracket",
    "Checkpoints",
    "Constant",
    "Cosine",
    "Exponential",
    "GaussianProcess",
    "LRSchedule",
    "Lanes",
    "Linear",
    "Looks",
    "Research",
    "ScheduleFree",
    "ScheduleFreeAverage",
    "Stages",
    "TrainingTask",
    "Validation",
    "Warmup",
    "find_lr",
]

_HOMES = {
    "algorithm.forecast.bounded_exponential": ("BoundedExponential",),
    "algorithm.forecast.exponential": ("Exponential",),
    "algorithm.schedules.run_shapes": ("WSD", "Constant", "Cosine", "Linear"),
    "algorithm.schedules.stage_plan": ("Stages",),
    "algorithm.schedules.warmup": ("Warmup",),
    "algorithm.search.bracket": ("Bracket",),
    "algorithm.search.gaussian_process": ("GaussianProcess",),
    "algorithm.search.looks": ("Looks",),
    "algorithm.search.research": ("Research",),
    "checkpoint_settings": ("Checkpoints",),
    "cluster.run_result": ("AutoLRSResult",),
    "cluster.trainer": ("AutoLRSTrainer",),
    "config": ("AutoLRSConfig",),
    "lanes": ("Lanes",),
    "schedule": ("LRSchedule",),
    "task": ("TrainingTask",),
    "training.averaging.ema": ("EMA",),
    "training.averaging.schedule_free": ("ScheduleFreeAverage",),
    "training.averaging.schedule_free_optimizer": ("ScheduleFree",),
    "training.find_lr": ("find_lr",),
    "training.settings": ("Validation",),
}
"""The public names of each module, below the package."""


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
