"""AutoLRS on Ray: train a PyTorch model and find its learning-rate schedule on the way.

The public names are loaded when they are first used, so that importing a part of the package
(``ray_autolrs.algorithm``, say) loads neither Ray nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_autolrs.cluster.trainer import AutoLRSResult, AutoLRSTrainer
    from ray_autolrs.config import AutoLRSConfig
    from ray_autolrs.schedule import LRSchedule
    from ray_autolrs.task import TrainingTask

__all__ = ["AutoLRSConfig", "AutoLRSResult", "AutoLRSTrainer", "LRSchedule", "TrainingTask"]

_HOMES = {
    "AutoLRSConfig": "ray_autolrs.config",
    "AutoLRSResult": "ray_autolrs.cluster.trainer",
    "AutoLRSTrainer": "ray_autolrs.cluster.trainer",
    "LRSchedule": "ray_autolrs.schedule",
    "TrainingTask": "ray_autolrs.task",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
