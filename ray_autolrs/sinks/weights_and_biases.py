"""Weights & Biases: a run there, online or in local files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_autolrs.extras import NeedsExtra
from ray_autolrs.sinks.curves import CurveSink, Scalar, by_step

STEP, PROBE = "applied_step", "probe_number"
"""What the curves are drawn over. W&B's own step only counts what was logged."""


class WandbSink(CurveSink):
    """Logs the curves of :mod:`ray_autolrs.sinks.curves`.

    Args:
        project: of the run.
        **init: what else ``wandb.init`` takes, such as ``name``, ``config``, ``dir``,
            ``mode="offline"``, or ``id`` and ``resume`` to go on with a run.

    Raises:
        ImportError: the extra ``wandb`` is not installed.
    """

    def __init__(self, project: str, **init: Any) -> None:
        super().__init__()
        with NeedsExtra("wandb"):
            import wandb
        self._wandb = wandb
        self._init = {"project": project, **init}
        self._run: Any = None

    def open(self) -> None:
        self._run = self._wandb.init(**self._init)
        self._run.define_metric("*", step_metric=STEP)
        self._run.define_metric("probe/*", step_metric=PROBE)

    def write(self, scalars: Sequence[Scalar]) -> None:
        for (over_probes, step), values in by_step(scalars).items():
            self._run.log({PROBE if over_probes else STEP: step, **values})

    def close(self) -> None:
        self._run.finish()
